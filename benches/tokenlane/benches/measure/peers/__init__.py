"""The measurement that compares tokenlane with other ways to bring a model server's answers to their readers."""
