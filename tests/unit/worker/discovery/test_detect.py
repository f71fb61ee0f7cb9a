"""Each kind of model server is told by what its pages hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import pages

from tokenlane.worker.discovery.detect import PATHS, recognise


@pytest.mark.parametrize(
    ("served", "kind"),
    [
        (pages.OLLAMA, "ollama"),
        ({**pages.OLLAMA, "/api/tags": {"models": None}}, "ollama"),
        (pages.VLLM, "vllm"),
        (pages.VLLM_WITH_A_KEY, "vllm"),
        (pages.LM_STUDIO, "lmstudio"),
        (pages.LM_STUDIO_WITH_A_KEY, "lmstudio"),
        (pages.TGI, "tgi"),
        (pages.LLAMA_CPP, "llamacpp"),
        (pages.OTHER_OPENAI, "openai"),
        ({"/openapi.json": {"paths": {"/v1/chat/completions": {}}}}, "openai"),
        ({"/v1/models": {"error": {"message": "No key.", "type": "invalid_request_error", "code": None}}}, "openai"),
        ({"/openapi.json": {"paths": {"/pets": {}}}}, None),
        ({"/openapi.json": {"paths": None}, "/v1/models": {"error": "no"}}, None),
        (pages.EMBEDDINGS_ONLY_TEI, None),
        (pages.WEB_INTERFACE, None),
        (pages.UNRELATED, None),
        ({"*": pages.UNEXPECTED}, None),
        ({}, None),
    ],
)
def test_each_kind_is_told_by_its_own_pages(served: pages.Pages, kind: str | None) -> None:
    """What answers 200 to everything, or shares a page with another, is not mistaken."""
    seen = {path: served.get(path, served.get("*")) for path in PATHS}
    assert recognise({path: page for path, page in seen.items() if page is not None}) == kind


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "models", "data"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(PATHS), JSON))
def test_any_answers_have_a_kind_or_none(served: dict[str, object]) -> None:
    """Any JSON answers are recognised as one of the kinds or as none, without an error."""
    assert recognise(served) in ("lmstudio", "ollama", "tgi", "vllm", "llamacpp", "openai", None)
