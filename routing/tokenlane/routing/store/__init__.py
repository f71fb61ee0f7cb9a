"""All access to Redis: connections, keys and channels, Lua scripts, and their replies as types."""
