"""What a model server means by refusing: HTTP statuses, errors of its own, contexts, pages that cannot be read."""
