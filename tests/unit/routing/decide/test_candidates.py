from __future__ import annotations

from dataclasses import replace
from typing import Literal

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


ABILITIES = st.sampled_from([("chat",), ("chat", "prefill"), ("chat", "prefill", "vision")])


def continuing_lane(name: str) -> st.SearchStrategy[LaneView]:
    """A lane of that name, whose models differ in whether they can continue an answer."""
    models = st.dictionaries(st.sampled_from(MODELS), ABILITIES, max_size=3)
    return st.builds(
        lambda models, **facts: lane_view(
            name, models=tuple(models), offer=chats(2, abilities=models), endpoint="http://gpu", **facts
        ),
        models=models,
        provider=st.sampled_from(PROVIDERS),
        queued=st.integers(0, 3),
        state=st.sampled_from(["up", "degraded", "loading", "draining", "down", "left", "gone"]),
        beat_ms=st.sampled_from([0, RESTART_MS, RESTART_MS + 1]),
    )


continuing_lanes = st.lists(st.sampled_from(LANES), unique=True).flatmap(
    lambda names: st.tuples(*map(continuing_lane, names))
)
cut_needs = st.builds(
    Needs,
    model=maybe(MODELS),
    provider=maybe(PROVIDERS),
    can=st.sampled_from([(), ("vision",)]),
    avoid=st.lists(st.sampled_from(LANES), unique=True, max_size=2).map(tuple),
    continues=st.sampled_from(MODELS),
    restarts=st.booleans(),
)
CONTINUE_WITH = st.sampled_from(["same-model", "any"])


def can_continue(place: LaneView, model: str, wish: Needs, continue_with: str) -> bool:
    """Whether the lane can continue the answer with that model."""
    long_away = place.state in ("left", "gone") and place.beat_ms > RESTART_MS
    same = continue_with == "any" or model == wish.continues
    return same and not long_away and place.offer.can(model, "prefill")


@given(continuing_lanes, routes, cut_needs, CONTINUE_WITH)
def test_an_answer_is_continued_wherever_it_can_be(
    there: tuple[LaneView, ...], route: list[Candidate], wish: Needs, continue_with: Literal["same-model", "any"]
) -> None:
    """Every lane that can continue the answer is a candidate if it is a candidate at all, and no lane that cannot. If
    none can, a request that allows a restart has the candidates of a new request."""
    policy = Policy(roles={"coder": RolePolicy(route=tuple(route), continue_with=continue_with)})
    # A request that names a model has an answer from that model.
    wish = wish.model_copy(update={"model": wish.continues}) if wish.model else wish
    found = [(lane, model) for lane, model in candidates(policy, "coder", wish, there) if not lane.is_coming]
    ways = route or [Candidate()]
    able = {
        place.name
        for place in there
        for way in ways
        for model in MODELS
        if can_continue(place, model, wish, continue_with) and serves(way, wish, place, model)
    }
    open_to = {place.name for place in there if place.name in able and place.state != "down"}
    if wish.restarts and not open_to:
        fresh = wish.model_copy(update={"continues": None})
        assert found == [pair for pair in candidates(policy, "coder", fresh, there) if not pair[0].is_coming]
        return
    for place, model in found:
        assert can_continue(place, model, wish, continue_with)
        assert any(serves(way, wish, place, model) for way in ways)
    names = {place.name for place, _ in found}
    assert names <= able
    assert bool(names) == bool(able)
    if not wish.can:
        assert names == able
    ranks = [
        (wish.avoid.index(lane.name) + 1 if lane.name in wish.avoid else 0, model != wish.continues)
        for lane, model in found
    ]
    assert ranks == sorted(ranks)


def continued(needs: Needs, *lanes: LaneView, continue_with: Literal["same-model", "any"] = "same-model") -> list[str]:
    """The candidates for a request that continues an answer, best first, as `lane/model`."""
    policy = Policy(roles={"r": RolePolicy(continue_with=continue_with)})
    return [f"{lane.name}/{model}" for lane, model in candidates(policy, "r", needs, lanes)]


def test_an_answer_is_continued_by_the_same_model_first() -> None:
    """Other models come after it if the policy allows them, and a failed lane comes after all others."""
    one, two = able("one", {"m1": ("chat", "prefill")}), able("two", {"m1:latest": ("chat", "prefill")})
    other, plain = able("other", {"m2": ("chat", "prefill")}), able("plain", {"m1": ("chat",)})
    needs = Needs(continues="m1")
    assert continued(needs, other, plain, two, one) == ["one/m1", "two/m1:latest"]
    assert continued(needs, other, plain, two, one, continue_with="any") == ["one/m1", "two/m1:latest", "other/m2"]
    failed = Needs(continues="m1", avoid=("one", "two"))
    assert continued(failed, other, plain, two, one, continue_with="any") == ["other/m2", "one/m1", "two/m1:latest"]
    both = able("both", {"m2": ("chat", "prefill"), "m1": ("chat", "prefill")})
    assert continued(needs, both) == continued(needs, both, continue_with="any") == ["both/m1"]


def test_an_answer_begins_anew_only_if_no_lane_can_continue_it() -> None:
    """It waits for a lane that is being restarted or loads a model, but not for a model server that is down."""
    able_lane, plain = able("able", {"m1": ("chat", "prefill")}), able("plain", {"m2": ("chat",)})
    coming = lane_view("coming", models=(), state="loading")
    needs = Needs(continues="m1", restarts=True)
    for state, beat_ms, found in (
        ("up", 0, ["able/m1"]),
        ("loading", 0, ["able/m1"]),
        ("gone", RESTART_MS, ["able/m1"]),
        ("gone", RESTART_MS + 1, ["plain/m2", "able/m1"]),
        ("down", 0, ["plain/m2", "able/m1"]),
    ):
        lane = replace(able_lane, facts=in_state(state), beat_ms=beat_ms)
        assert continued(needs, lane, plain) == found
    assert continued(needs, coming, plain) == ["plain/m2", "coming/"]
    assert continued(needs, plain) == ["plain/m2"]
    assert continued(Needs(continues="m1"), plain) == []
    assert continued(Needs(continues="m1"), coming, plain) == ["coming/m1"]


def test_no_lane_pulls_a_model_to_continue_an_answer() -> None:
    """Whether a model that is not pulled yet can continue an answer is unknown. It may begin an answer anew."""
    free = lane_view("free", "ollama", models=("old",), offer=chats(1, pulls=True))
    assert list(pullers(Policy(), "r", Needs(model="new", continues="new"), [free])) == []
    restarts = Needs(model="new", continues="new", restarts=True)
    assert [model for _, model in pullers(Policy(), "r", restarts, [free])] == ["new"]
