"""The model that is none: what it answers, which models a server has, and what it refuses."""
