"""What a worker applies to requests before the model server gets them, and to answers before agents do."""
