"""How a lane that names no back end finds one: which model servers answer, and which of them is used."""

from __future__ import annotations
