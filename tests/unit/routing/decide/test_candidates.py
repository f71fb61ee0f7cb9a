from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.lanes import chats, in_state, lane_view

from tokenlane.config.settings.values import FALLBACK_LANE
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.candidates import candidates, pullers
from tokenlane.routing.decide.lanes.offer import LaneView, Offer
from tokenlane.routing.decide.lanes.state import RESTART_MS
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy

PROVIDERS, MODELS, LANES = ["ollama", "vllm"], ["m1", "m2", "m3"], ["l1", "l2", "l3", "l4"]


def maybe(values: list[str]) -> st.SearchStrategy[str | None]:
    """One of them, or none."""
    return st.none() | st.sampled_from(values)


def lane(name: str) -> st.SearchStrategy[LaneView]:
    """A lane of that name."""
    return st.builds(
        lane_view,
        name=st.just(name),
        provider=st.sampled_from(PROVIDERS),
        endpoint=st.just("http://gpu"),
        models=st.lists(st.sampled_from(MODELS), unique=True, max_size=3).map(tuple),
        limit=st.integers(1, 4),
        queued=st.integers(0, 5),
        state=st.sampled_from(["up", "left", "gone"]),
    )


lanes = st.lists(st.sampled_from(LANES), unique=True).flatmap(lambda names: st.tuples(*map(lane, names)))
routes = st.lists(st.builds(Candidate, provider=maybe(PROVIDERS), model=maybe(MODELS), lane=maybe(LANES)), max_size=4)
needs = st.builds(Needs, model=maybe(MODELS), provider=maybe(PROVIDERS))


def serves(candidate: Candidate, wish: Needs, place: LaneView, model: str) -> bool:
    """Whether the lane may serve the wish through the candidate with that model."""
    return (
        model in place.models
        and candidate.lane in (None, place.name)
        and {candidate.provider, wish.provider} <= {None, place.provider}
        and {candidate.model, wish.model} <= {None, model}
    )


@given(lanes, routes, needs)
def test_candidates_are_all_that_match_and_nothing_else(
    there: tuple[LaneView, ...], route: list[Candidate], wish: Needs
) -> None:
    """Each lane that some candidate of the route allows is named once, with a model that this candidate allows."""
    policy = Policy(roles={"coder": RolePolicy(route=tuple(route))})
    found = list(candidates(policy, "coder", wish, there))
    names = [place.name for place, _ in found]
    assert len(names) == len(set(names))
    ways = route or [Candidate()]
    for place, model in found:
        assert any(serves(way, wish, place, model) for way in ways)
    able = {place.name for place in there for way in ways for model in MODELS if serves(way, wish, place, model)}
    assert set(names) == able


@given(lanes, routes, needs)
def test_the_route_comes_before_credit(there: tuple[LaneView, ...], route: list[Candidate], wish: Needs) -> None:
    """Lanes come in the order of the first candidate that allows them, and within one by free places."""
    policy = Policy(roles={"coder": RolePolicy(route=tuple(route))})
    ways = route or [Candidate()]

    def place_in_route(place: LaneView) -> int:
        return min(nth for nth, way in enumerate(ways) if any(serves(way, wish, place, model) for model in MODELS))

    found = [place for place, _ in candidates(policy, "coder", wish, there)]
    assert found == sorted(found, key=lambda place: (place_in_route(place), -place.credit_for("chat"), place.name))


@given(lanes, needs)
def test_without_a_route_every_lane_may_serve(there: tuple[LaneView, ...], wish: Needs) -> None:
    """A role without a route is served as one whose route allows anything."""
    policy = Policy(roles={"other": RolePolicy(route=(Candidate(lane="nowhere"),))})
    assert list(candidates(policy, "coder", wish, there)) == list(candidates(Policy(), "coder", wish, there))


def test_credit_is_never_negative() -> None:
    """A lane that holds more than its limit, or is not live, has no free place."""
    full, gone = lane_view("l", limit=2, queued=3), lane_view("l", limit=2, state="gone")
    assert (full.credit_for("chat"), gone.credit_for("chat")) == (0, 0)


def test_the_tag_latest_may_be_left_out_or_added() -> None:
    """Ollama lists `phi3:latest` where people say `phi3`; a tag that says anything else must be that one."""
    place = lane_view("l1", "ollama", models=("phi3:latest", "qwen3:8b", "sim"))
    policy = Policy(roles={"coder": RolePolicy(route=(Candidate(model="phi3"),))})
    for asked, found in {"phi3": "phi3:latest", "phi3:latest": "phi3:latest", "sim:latest": "sim"}.items():
        assert [model for _, model in candidates(Policy(), "r", Needs(model=asked), (place,))] == [found]
    assert [model for _, model in candidates(policy, "coder", Needs(model="phi3:latest"), (place,))] == ["phi3:latest"]
    for asked in ("qwen3", "phi3:mini", "other"):
        assert list(candidates(Policy(), "r", Needs(model=asked), (place,))) == []


def able(name: str, models: dict[str, tuple[str, ...]], *, longest: int | None = None) -> LaneView:
    """A lane whose models can do that."""
    offer = Offer(abilities=models, limits={"chat": 1, "embed": 2, "command": 1}, max_input_tokens=longest)
    return lane_view(name, "ollama", models=tuple(models), offer=offer, queued={"embed": 1})


def found(needs: Needs, *lanes: LaneView, kind: Kind = "chat") -> dict[str, str]:
    """The model of each lane that is a candidate."""
    return {lane.name: model for lane, model in candidates(Policy(), "r", needs, lanes, kind)}


def test_work_goes_to_models_that_can_do_it() -> None:
    """An embedding goes to models that embed, a chat to those that chat; one that says nothing of itself can chat."""
    both = able("both", {"talker": ("chat",), "mapper": ("embed",)})
    silent = lane_view("silent", models=("any",))
    assert found(Needs(), both, silent) == {"both": "talker", "silent": "any"}
    assert found(Needs(), both, silent, kind="embed") == {"both": "mapper"}
    assert found(Needs(model="talker"), both, kind="embed") == {}
    assert both.credit_for("embed") == both.credit_for("command") == 1


def test_a_wish_decides_if_somebody_can() -> None:
    """What a request shows that it needs leads to models that say they can; if none does, to any."""
    plain = able("plain", {"small": ("chat",)})
    seeing = able("seeing", {"small": ("chat",), "eyes": ("chat", "vision")})
    assert found(Needs(can=("vision",)), plain, seeing) == {"seeing": "eyes"}
    assert found(Needs(can=("vision",)), plain) == {"plain": "small"}
    assert found(Needs(model="small", can=("vision",)), plain, seeing) == {"plain": "small", "seeing": "small"}


def test_a_lane_to_avoid_comes_last_and_stays_a_candidate() -> None:
    """Lanes on which a request failed come after all others, whatever the route says, the newest failure at the end."""
    places = tuple(able(name, {"m": ("chat",)}) for name in ("l1", "l2", "l3"))
    policy = Policy(roles={"coder": RolePolicy(route=tuple(Candidate(lane=name) for name in ("l2", "l1", "l3")))})
    for avoid, names in {
        (): ["l2", "l1", "l3"],
        ("l2",): ["l1", "l3", "l2"],
        ("l2", "gone", "l1"): ["l3", "l2", "l1"],
        ("l1", "l2", "l3"): ["l1", "l2", "l3"],
    }.items():
        assert [place.name for place, _ in candidates(policy, "coder", Needs(avoid=avoid), places)] == names
    assert [*found(Needs(avoid=("l1",)), *places, kind="command")] == ["l2", "l3", "l1"]


def test_long_prompts_go_where_they_fit() -> None:
    """A lane with a limit is no candidate for a longer prompt."""
    small, large = able("small", {"m": ("chat",)}, longest=4096), able("large", {"m": ("chat",)})
    assert found(Needs(input=4096), small, large) == {"small": "m", "large": "m"}
    assert found(Needs(input=5120), small, large) == {"large": "m"}


def test_commands_go_to_the_lane_they_name() -> None:
    """A command needs no model to be there, and follows no route; lanes that take none are left out."""
    one, two = able("one", {"m": ("chat",)}), able("two", {})
    old = lane_view("old")
    assert found(Needs(model="new", lane="two"), one, two, old, kind="command") == {"two": "new"}
    assert found(Needs(), one, two, old, kind="command") == {"one": "", "two": ""}


def test_the_fallback_embeds_where_no_other_lane_could() -> None:
    """Only where no candidate embeds, whatever the text's length, the fallback lane does; never for a chat, nor where a
    model is asked for."""
    talker = able("talker", {"small": ("chat",)})
    mapper = able("mapper", {"nomic": ("embed",)}, longest=1024)
    away = lane_view("mapper", models=("nomic",), offer=mapper.offer, state="gone")
    last = replace(able("fallback", {"words": ("embed",)}), provider="fasttext")
    assert found(Needs(), talker, last, kind="embed") == {"fallback": "words"}
    assert found(Needs(input=5120), talker, last, kind="embed") == {"fallback": "words"}
    assert found(Needs(), talker, mapper, last, kind="embed") == {"mapper": "nomic"}
    assert found(Needs(), away, last, kind="embed") == {"mapper": "nomic"}
    assert found(Needs(input=5120), mapper, last, kind="embed") == {}
    assert found(Needs(), last) == found(Needs(), last, kind="command") == {}
    assert found(Needs(model="other"), talker, last, kind="embed") == {}
    strict = Policy(fallback="error")
    assert list(candidates(strict, "r", Needs(), (talker, last), "embed")) == []


def test_a_lane_that_left_is_waited_for_a_minute() -> None:
    """A lane that was shut down a minute ago blocks neither the fallback nor less capable lanes, and requests
    wait for it only while no other lane is connected. A lane that vanished is waited for."""

    def away(place: LaneView, left_ms: int | None) -> LaneView:
        return replace(place, facts=in_state("gone" if left_ms is None else "left"), beat_ms=left_ms or 0)

    mapper = able("mapper", {"nomic": ("embed",)}, longest=1024)
    last = replace(able("fallback", {"words": ("embed",)}), provider="fasttext")
    seeing, plain = able("seeing", {"eyes": ("chat", "vision")}), able("plain", {"small": ("chat",)})
    for left_ms in (None, RESTART_MS):
        assert found(Needs(), away(mapper, left_ms), last, kind="embed") == {"mapper": "nomic"}
        assert found(Needs(input=5120), away(mapper, left_ms), last, kind="embed") == {}
        assert found(Needs(can=("vision",)), away(seeing, left_ms), plain) == {"seeing": "eyes"}
    left = RESTART_MS + 1
    assert found(Needs(), away(mapper, left), last, kind="embed") == {"fallback": "words"}
    assert found(Needs(input=5120), away(mapper, left), last, kind="embed") == {"fallback": "words"}
    assert found(Needs(), away(mapper, left), replace(mapper, name="other"), last, kind="embed").keys() >= {"other"}
    assert found(Needs(), away(mapper, left), kind="embed") == {"mapper": "nomic"}
    assert found(Needs(model="nomic"), away(mapper, left), last, kind="embed") == {"mapper": "nomic"}
    assert found(Needs(can=("vision",)), away(seeing, left), plain) == {"plain": "small"}
    assert found(Needs(), away(plain, left)) == {"plain": "small"}
    for left_ms, waits in ((None, True), (RESTART_MS, True), (left, False)):
        for needs in (Needs(model="eyes"), Needs(lane="seeing")):
            assert found(needs, away(seeing, left_ms), plain) == ({"seeing": "eyes"} if waits else {})
    assert found(Needs(model="eyes"), away(seeing, left), away(plain, None)) == {"seeing": "eyes"}
    strict = Policy(fallback="error")
    places = candidates(strict, "r", Needs(), (away(mapper, left), last), "embed")
    assert [lane.name for lane, _ in places] == ["mapper"]


def test_the_fallback_serves_what_names_it() -> None:
    """A route or a request may name the fallback lane, its provider or its model, whoever else could serve it."""
    mapper = able("mapper", {"nomic": ("embed",)})
    last = replace(able("fallback", {"words": ("embed",)}), provider="fasttext")
    for needs in (Needs(model="words"), Needs(provider="fasttext"), Needs(lane="fallback")):
        assert found(needs, mapper, last, kind="embed") == {"fallback": "words"}
    policy = Policy(roles={"r": RolePolicy(route=(Candidate(lane="fallback"), Candidate()))}, fallback="error")
    places = [lane.name for lane, _ in candidates(policy, "r", Needs(), (mapper, last), "embed")]
    assert places == ["fallback", "mapper"]


def test_who_may_pull_what() -> None:
    """A live lane that pulls does so for a model that is named and lacking, by route, and within what it may."""

    def puller(
        name: str, provider: str = "ollama", *, lacks: tuple[str, ...] | None = None, live: bool = True
    ) -> LaneView:
        offer = chats(1, pulls=True, lacks=lacks)
        return lane_view(name, provider, models=("old:latest",), offer=offer, state="up" if live else "gone")

    def pulled(needs: Needs, *lanes: LaneView, policy: Policy | None = None) -> list[tuple[str, str]]:
        return [(lane.name, model) for lane, model in pullers(policy or Policy(), "r", needs, lanes)]

    free, named, dead = puller("free"), puller("named", "vllm", lacks=("mine",)), puller("dead", live=False)
    assert pulled(Needs(model="new"), free, named, dead) == [("free", "new")]
    assert pulled(Needs(model="mine"), free, named) == [("free", "mine"), ("named", "mine")]
    assert pulled(Needs(), free, named) == [("named", "mine")]
    assert pulled(Needs(model="old"), free) == []
    assert pulled(Needs(model="new"), able("plain", {"m": ("chat",)})) == []
    route = Policy(roles={"r": RolePolicy(route=(Candidate(provider="vllm"), Candidate(lane="free", model="new")))})
    assert pulled(Needs(), free, named, policy=route) == [("named", "mine"), ("free", "new")]
    assert pulled(Needs(model="other"), free, named, policy=route) == []


def test_a_lane_of_which_nobody_knows_yet_what_it_serves() -> None:
    """It keeps what it may come to serve from being refused, takes nothing before, and leaves texts to the fallback."""
    coming = lane_view("gpu0", models=(), state="loading")
    fallback = lane_view(FALLBACK_LANE, "fasttext", models=("words",), offer=chats(1, abilities={"words": ("embed",)}))
    policy = Policy(roles={"r": RolePolicy(route=(Candidate(provider="vllm", model="m1"),))})
    assert [lane.name for lane, _ in candidates(policy, "r", Needs(model="m1"), [coming])] == ["gpu0"]
    assert list(candidates(policy, "r", Needs(model="m2"), [coming])) == []
    assert list(candidates(policy, "r", Needs(provider="ollama"), [coming])) == []
    assert (coming.credit_for("chat"), coming.credit_for("embed")) == (0, 0)
    texts = candidates(Policy(), "r", Needs(), [coming, fallback], "embed")
    assert [lane.name for lane, _ in texts] == [FALLBACK_LANE]
    assert list(candidates(Policy(), "r", Needs(), [replace(coming, facts=in_state("gone"))])) == []
