"""The programs of the compared peers. They run in other virtual environments, so they import nothing of tokenlane."""
