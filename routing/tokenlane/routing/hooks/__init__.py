"""Hooks: functions of users that change requests and filter answers, on a worker or in an agent."""
