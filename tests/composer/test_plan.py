"""The normal form: whatever way a composition is written, it is one plan."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    EmptyCompositionError,
    NoRequestPromptError,
    TooManyMembersError,
    WeightError,
)
from composer.filters import Filter, FilterKind, NamedFilter
from composer.formula import parse
from composer.plan import Limits, Member, Plan, normalize
from composer.prompts import (
    LastToken,
    MessagesPrompt,
    Prompt,
    RequestPrompt,
    TextPrompt,
    TokensPrompt,
    WithoutText,
)

TOP_P, PLAUSIBILITY, TOP_K = FilterKind.TOP_P, FilterKind.PLAUSIBILITY, FilterKind.TOP_K

Term = tuple[Member, float]
Terms = list[Term]

MODELS = st.sampled_from(["base", "polite", "rude", "code-v2", "it's"])
PROMPTS: st.SearchStrategy[Prompt] = st.one_of(
    st.just(RequestPrompt()),
    st.just(LastToken()),
    st.builds(TextPrompt, st.sampled_from("ab")),
    st.builds(WithoutText, st.sampled_from("ab")),
    st.just(MessagesPrompt((("user", "hi"),))),
    st.just(TokensPrompt((1, 2))),
)
WEIGHTS = st.floats(-3, 3) | st.sampled_from([0.0, 1.0, -1.0, 0.1, 1e-10])
TERM = st.tuples(st.builds(Member, MODELS, PROMPTS), WEIGHTS)
REQUEST_TERM = st.tuples(st.builds(Member, MODELS), WEIGHTS)
ANCHOR = (Member("m"), 5.0)  # keeps generated terms from cancelling to nothing


def anchored(term: st.SearchStrategy[Term]) -> st.SearchStrategy[Terms]:
    """Terms that are a composition, in any order."""
    return st.lists(term, max_size=7).map(lambda terms: [*terms, ANCHOR]).flatmap(st.permutations)


TERMS, REQUEST_TERMS = anchored(TERM), anchored(REQUEST_TERM)
ROOMY = Limits(max_members=30)


def plan_of(formula: str, *filters: NamedFilter) -> Plan:
    return normalize([(Member(name), weight) for name, weight in parse(formula)], filters)


@pytest.mark.parametrize(
    ("formula", "canonical"),
    [
        ("base", "base"),
        ("base + 0.8*(polite - rude)", "base + 0.8*polite - 0.8*rude"),
        ("0.8*(polite - rude) + base", "base + 0.8*polite - 0.8*rude"),
        ("base + 0.8*(polite - base)", f"{1 - 0.8!r}*base + 0.8*polite"),
        ("base + polite - base", "polite"),
        ("rude - 2*abc - base", "-base - 2*abc + rude"),
        ("'code-v2'/4 + base", "base + 0.25*'code-v2'"),
        ("0.1*a + 0.2*a", "0.30000000000000004*a"),  # exactly what adding the floats gives
        ("a + 1e-10*b", "a"),
        ("a + 1e-9*b", "a + 1e-09*b"),
    ],
)
def test_formula(formula: str, canonical: str) -> None:
    assert plan_of(formula).formula() == canonical


@given(TERMS.flatmap(lambda terms: st.tuples(st.just(terms), st.permutations(terms))))
def test_the_order_of_terms_is_irrelevant(orders: tuple[Terms, Terms]) -> None:
    one, other = (normalize(terms, limits=ROOMY) for terms in orders)
    assert one == other


def test_the_order_is_irrelevant_to_the_last_bit() -> None:
    terms = [(Member("a"), weight) for weight in (0.1, 0.7, -0.3, 1e-7)]
    plans = {normalize(order) for order in itertools.permutations(terms)}
    assert len(plans) == 1


@given(TERMS)
def test_equal_members_merge_into_their_sum(terms: Terms) -> None:
    plan = normalize(terms, limits=ROOMY)
    assert len(set(plan.members)) == plan.rows
    sums = {m: math.fsum(w for n, w in terms if n == m) for m, _ in terms}
    kept = {m: w for m, w in sums.items() if abs(w) >= 1e-9}
    assert dict(zip(plan.members, plan.weights, strict=True)) == kept


@given(TERMS, st.builds(Member, MODELS, PROMPTS), st.floats(-3, 3))
def test_what_cancels_vanishes(terms: Terms, member: Member, weight: float) -> None:
    plan = normalize(terms, limits=ROOMY)
    assert normalize([*terms, (member, 0.0)], limits=ROOMY) == plan
    assert normalize([(member, weight), *terms, (member, -weight)], limits=ROOMY) == plan


@given(st.data(), TERMS)
def test_normalize_is_idempotent(data: st.DataObject, terms: Terms) -> None:
    judges = [member.model for member, _ in terms if member.prompt == RequestPrompt()]
    judge = st.sampled_from(judges)
    filters = st.builds(
        NamedFilter, st.sampled_from([TOP_P, PLAUSIBILITY]), judge, st.floats(0.1, 1)
    ) | st.builds(NamedFilter, st.just(TOP_K), judge, st.integers(1, 50))
    plan = normalize(terms, data.draw(st.lists(filters, max_size=5)), limits=ROOMY)
    again = normalize(
        zip(plan.members, plan.weights, strict=True),
        [NamedFilter(f.kind, plan.members[f.member].model, f.value) for f in plan.filters],
        limits=ROOMY,
    )
    assert again == plan


@given(REQUEST_TERMS)
@example([(Member("base"), 1e-9), (Member("it's"), -1 / 3)])
@example([ANCHOR])
def test_the_formula_of_a_plan_is_that_plan(terms: Terms) -> None:
    plan = normalize(terms, limits=ROOMY)
    assert plan_of(plan.formula()) == plan


@given(st.sampled_from("abc"), st.sampled_from("bcd"), st.floats(0.1, 9))
def test_multiplication_distributes(a: str, b: str, c: float) -> None:
    multiplied_out = plan_of(f"{a}*{c!r} + {b}*{c!r}")
    assert plan_of(f"({a} + {b})*{c!r}") == multiplied_out
    assert plan_of(f"{c!r}*({a} + {b})") == multiplied_out
    assert plan_of(f"-({a} + {b})*-{c!r}") == multiplied_out


@given(TERMS)
def test_the_leader_reads_the_request(terms: Terms) -> None:
    plan = normalize(terms, limits=ROOMY)
    assert plan.leader == 0
    assert isinstance(plan.members[plan.leader].prompt, RequestPrompt)


def test_canonical_order() -> None:
    members = [
        Member("base"),
        Member("abc"),
        Member("xyz"),
        Member("base", LastToken()),
        Member("base", TextPrompt("a")),
        Member("base", TextPrompt("b")),
        Member("abc", LastToken()),
    ]
    assert normalize([(m, 1.0) for m in reversed(members)]).members == tuple(members)


@pytest.mark.parametrize(
    ("plan", "plain"),
    [
        (plan_of("polite"), True),
        (plan_of("base + polite - base"), True),
        (plan_of("2*base"), False),
        (plan_of("base + polite"), False),
        (plan_of("base", NamedFilter(TOP_P, "base", 0.9)), False),
        (Plan((Member("base", LastToken()),), (1.0,)), False),
    ],
)
def test_is_plain(plan: Plan, plain: bool) -> None:
    assert plan.is_plain is plain


def test_a_filter_points_at_the_member_that_reads_the_request() -> None:
    plan = normalize(
        [(Member("xyz", LastToken()), -0.5), (Member("xyz"), 1.5), (Member("abc"), 1.0)],
        [NamedFilter(PLAUSIBILITY, "xyz", 0.1)],
    )
    assert plan.members[1] == Member("xyz")
    assert plan.filters == (Filter(PLAUSIBILITY, 1, 0.1),)


def test_a_member_that_a_filter_looks_at_stays_without_weight() -> None:
    plan = plan_of("base + polite - base", NamedFilter(TOP_P, "base", 0.9))
    assert plan == Plan((Member("base"), Member("polite")), (0.0, 1.0), (Filter(TOP_P, 0, 0.9),))
    assert plan.formula() == "0*base + polite"


@pytest.mark.parametrize("rounding", [0.0, -0.0, 1e-12])
def test_the_weight_of_a_member_kept_for_its_filter_is_zero(rounding: float) -> None:
    terms = [(Member("base"), rounding), (Member("rude"), 1.0)]
    weight = normalize(terms, [NamedFilter(TOP_P, "base", 0.5)]).weights[0]
    assert math.copysign(1.0, weight) == 1.0
    assert weight == 0.0


@pytest.mark.parametrize(
    ("given_filters", "kept"),
    [
        ([(TOP_P, 0.9), (TOP_P, 0.5), (TOP_P, 0.7)], [(TOP_P, 0.5)]),
        ([(PLAUSIBILITY, 0.1), (PLAUSIBILITY, 0.3)], [(PLAUSIBILITY, 0.3)]),
        ([(TOP_P, 0.9), (PLAUSIBILITY, 0.1)], [(PLAUSIBILITY, 0.1), (TOP_P, 0.9)]),
        ([(PLAUSIBILITY, 0.1), (TOP_P, 0.9)], [(PLAUSIBILITY, 0.1), (TOP_P, 0.9)]),
        ([(TOP_P, 1.0), (PLAUSIBILITY, 0.0)], []),
        ([(PLAUSIBILITY, 1.0)], [(PLAUSIBILITY, 1.0)]),
        ([(TOP_K, 20.0), (TOP_K, 5.0)], [(TOP_K, 5.0)]),
        ([(TOP_P, 0.9), (TOP_K, 20.0)], [(TOP_K, 20.0), (TOP_P, 0.9)]),
    ],
)
def test_of_filters_the_strictest_stays(
    given_filters: list[tuple[FilterKind, float]], kept: list[tuple[FilterKind, float]]
) -> None:
    filters = [NamedFilter(kind, "base", value) for kind, value in given_filters]
    assert [(f.kind, f.value) for f in plan_of("base", *filters).filters] == kept


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        (
            [(Member("base"), math.nan)],
            WeightError,
            "the weight of base is nan; give a finite number.",
        ),
        (
            [(Member("code-v2"), -math.inf)],
            WeightError,
            "the weight of 'code-v2' is -inf; give a finite number.",
        ),
        (
            [(Member("base", LastToken()), 100.5)],
            WeightError,
            "the weight of base[last token] is 100.5; give a number between -100 and 100.",
        ),
        (
            [(Member("a"), -60.0), (Member("a"), -60.0)],
            WeightError,
            "the weight of a is -120; give a number between -100 and 100.",
        ),
        (
            [(Member(f"m{n}"), 1.0) for n in range(9)],
            TooManyMembersError,
            "the composition has 9 different members; at most 8 are allowed. "
            "Remove the ones with the smallest weights.",
        ),
        ([], EmptyCompositionError, "the composition has no members. Add at least one."),
        (
            [(Member("b"), 1.0), (Member("a"), 0.0), (Member("b"), -1.0)],
            EmptyCompositionError,
            "nothing is left of a, b: every weight is 0 after merging equal members. "
            "Change a weight so that one member stays.",
        ),
        (
            [(Member(f"m{n:02}"), 0.0) for n in range(10)],
            EmptyCompositionError,
            "nothing is left of m00, m01, m02, m03, m04, m05, m06, m07 and 2 more: every weight",
        ),
        (
            [(Member("base", TextPrompt("hi")), 1.0), (Member("base"), 0.0)],
            NoRequestPromptError,
            'no member reads the request\'s prompt, only base[text "hi"]. '
            "Add a member without a prompt of its own and with a weight other than 0.",
        ),
    ],
)
def test_error(terms: Terms, error: type[CompositionError], message: str) -> None:
    with pytest.raises(error) as caught:
        normalize(terms)
    assert type(caught.value) is error
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("kind", "model", "value", "message"),
    [
        (TOP_P, "base", 0.0, "the top_p filter on 'base' has the value 0; give a number greater "),
        (TOP_P, "base", 1.5, "the top_p filter on 'base' has the value 1.5; give a number greate"),
        (TOP_P, "base", math.nan, "the top_p filter on 'base' has the value nan; give a number"),
        (PLAUSIBILITY, "base", -0.1, "the plausibility filter on 'base' has the value -0.1; give"),
        (PLAUSIBILITY, "base", 2.0, "the plausibility filter on 'base' has the value 2; give a n"),
        (TOP_K, "base", 0.0, "the top_k filter on 'base' has the value 0; give a whole number fr"),
        (TOP_K, "base", 2.5, "the top_k filter on 'base' has the value 2.5; give a whole number"),
        (TOP_K, "base", 1e7, "the top_k filter on 'base' has the value 10000000; give a whole nu"),
        (TOP_K, "base", math.nan, "the top_k filter on 'base' has the value nan; give a whole nu"),
        (TOP_K, "base", math.inf, "the top_k filter on 'base' has the value inf; give a whole nu"),
        (
            TOP_P,
            "polite",
            1.0,  # keeps every token, but the name is wrong nevertheless
            "the top_p filter names 'polite', which is not a member that reads the request's "
            "prompt. Name one of base, rude[last token], or add it with weight 0.",
        ),
        (PLAUSIBILITY, "rude", 0.1, "the plausibility filter names 'rude', which is not a member"),
    ],
)
def test_filter_error(kind: FilterKind, model: str, value: float, message: str) -> None:
    terms = [(Member("base"), 1.0), (Member("rude", LastToken()), 1.0)]
    with pytest.raises(CompositionSchemaError) as caught:
        normalize(terms, [NamedFilter(kind, model, value)])
    assert caught.value.message.startswith(message)


def test_limits_are_inclusive_and_count_merged_members() -> None:
    limits = Limits(max_members=2, max_weight=5.0)
    terms = [(Member("a"), 5.0), (Member("b"), -5.0), (Member("c"), 0.0), (Member("b"), 1.0)]
    assert normalize(terms, limits=limits).rows == 2
    with pytest.raises(TooManyMembersError, match="3 different members; at most 2 "):
        normalize([*terms, (Member("c"), 1.0)], limits=limits)
    with pytest.raises(WeightError, match=r"is 5\.1; give a number between -5 and 5"):
        normalize([(Member("a"), 5.1)], limits=limits)


def test_a_member_kept_for_its_filter_counts() -> None:
    terms = [(Member("a"), 1.0), (Member("b"), 0.0)]
    judge = NamedFilter(TOP_P, "b", 0.9)
    with pytest.raises(TooManyMembersError, match="2 different members; at most 1 "):
        normalize(terms, [judge], limits=Limits(max_members=1))


def test_to_dict_says_everything_in_json() -> None:
    plan = normalize(
        [
            (Member("base"), 1.5),
            (Member("polite", LastToken()), 0.5),
            (Member("polite", TextPrompt("t")), 0.5),
            (Member("polite", MessagesPrompt((("user", "hi"),))), 0.5),
            (Member("polite", TokensPrompt((7, 8))), 0.5),
            (Member("polite", WithoutText("w")), -1.0),
        ],
        [NamedFilter(PLAUSIBILITY, "base", 0.1)],
    )
    description = {
        "formula": '1.5*base + 0.5*polite[last token] + 0.5*polite[text "t"] + '
        '0.5*polite[messages "hi"] + 0.5*polite[2 token ids] - polite[without "w"]',
        "members": [
            {"model": "base", "weight": 1.5, "prompt": "request"},
            {"model": "polite", "weight": 0.5, "prompt": "last token"},
            {"model": "polite", "weight": 0.5, "prompt": {"text": "t"}},
            {
                "model": "polite",
                "weight": 0.5,
                "prompt": {"messages": [{"role": "user", "content": "hi"}]},
            },
            {"model": "polite", "weight": 0.5, "prompt": {"token_ids": 2}},
            {"model": "polite", "weight": -1.0, "prompt": {"without": "w"}},
        ],
        "filters": [{"kind": "plausibility", "model": "base", "value": 0.1}],
    }
    assert plan.to_dict() == description
    assert json.loads(json.dumps(plan.to_dict())) == description


def test_what_cancels_is_said() -> None:
    """`base + (polite - base)` is polite alone, exactly, and the plan says what went."""
    base, polite = Member("base"), Member("polite")
    plan = normalize([(base, 1.0), (polite, 1.0), (base, -1.0)])
    assert plan.is_plain
    assert plan == normalize([(polite, 1.0)])
    assert plan.to_dict()["cancelled"] == ["base"]
    assert "cancelled" not in normalize([(base, 0.0), (polite, 1.0)]).to_dict()
    judged = normalize(
        [(base, 1.0), (polite, 1.0), (base, -1.0)], [NamedFilter(TOP_P, "base", 0.5)]
    )
    assert judged.cancelled == ()


def test_a_cancelled_prompt_stays_private() -> None:
    secret = Member("base", TextPrompt("secret"))
    plan = normalize([(Member("polite"), 1.0), (secret, 1.0), (secret, -1.0)])
    assert "secret" in str(plan.to_dict())
    assert "secret" not in str(plan.hidden().to_dict())


def test_log_softmax_of_one_model_alone_is_that_model() -> None:
    base, polite = Member("base"), Member("polite")
    assert normalize([(polite, 1.0)], log_softmax=True).is_plain
    both = normalize([(base, 1.0), (polite, 1.0)], log_softmax=True)
    assert both.log_softmax
    assert both.to_dict()["log_softmax"] is True
    assert both != normalize([(base, 1.0), (polite, 1.0)])


def test_one_soft_filter_at_most() -> None:
    terms = [(Member("base"), 1.0), (Member("polite"), 1.0)]
    soft = [NamedFilter(FilterKind.SOFT_TOP_K, name, 5) for name in ("base", "polite")]
    assert len(normalize(terms, soft[:1]).filters) == 1
    assert normalize(terms[:1], soft[:1]).is_plain  # there is nothing to centre
    with pytest.raises(CompositionSchemaError, match="'base' and 'polite'; only one member"):
        normalize(terms, soft)
