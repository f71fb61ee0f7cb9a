"""Translates the error answers of model servers to the errors that agents get."""
