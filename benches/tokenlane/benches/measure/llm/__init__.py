"""The time that real model servers take to answer, and the memory that they hold."""
