"""How the robust rules read an answer: what must be read, and what must not become an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_eval.catalog import load_benchmark
from mllm_eval.metrics import choices, plain, quantities
from mllm_eval.score import load_scorer

COLOURS = ["red", "blue", "green", "black"]
ANIMALS = ["bear", "dog", "cat", "apple tree"]
SIGNS = ["x > 1", "x < 1", "x = 1"]
TEMPERATURES = ["\u22125 \u00b0C", "5 \u00b0C", "12 \u00b0C"]
LETTERS = ["B", "A", "D", "C"]
PAIRS = ["A and B", "B and C", "A", "None of the above"]
CHINESE = ["\u7ea2\u8272", "\u84dd\u8272", "\u7eff\u8272"]


def robust(benchmark: str, record: Mapping[str, Any], answer: str) -> float | None:
    return load_scorer(load_benchmark(benchmark)).rules["robust"](record, answer)[0]


hard = st.sampled_from(
    [
        *(
            "A",
            "B",
            "C",
            "E",
            "a",
            "I",
            "1",
            "-1",
            "\u22121",
            "\u00bd",
            "5 C",
            "25 \u00b0C",
            "10 A",
            "A and B",
            "both A and B",
        ),
        *("None of the above", "Cannot be determined", "**x**", "*x*", "<b>", "<p>x</p>", "$x^2$", "$\\frac{1}{2}$"),
        *(
            "\\boxed{A}",
            "\\alpha",
            "CO\u2082",
            "CO2",
            "10\u00b3",
            "103",
            "x > 1",
            "x < 1",
            "1,000",
            "1000",
            "50%",
            "50 %",
        ),
        *(
            ".5",
            "0.5",
            " x",
            "x",
            "x  y",
            "x y",
            "<think>",
            "</think>",
            "<answer>B</answer>",
            "Answer: A",
            "(a)",
            "(A)",
        ),
        *(
            "The answer is B",
            "A.",
            "B. dog",
            "wait",
            "Actually, no",
            "not A",
            "vitamin A",
            "?",
            "-",
            "\u2014",
            "the",
            "A cat",
        ),
        *(
            "\u7ea2\u8272",
            "\u03a9",
            "\ufb01",
            "fi",
            "\u200b",
            "10\u201320",
            "10-20",
            "a*b",
            "a+b",
            "~",
            " ",
            "No",
            "no",
        ),
        *("3/4", "0.75", "1/3", "0.33", "12", "12 cm", "12 m", "12 mm", "twenty-one", "21", "twenty", "one"),
        *(
            "thirteen",
            "1.5 million",
            "1.5",
            "1,500,000",
            "two hundred",
            "200",
            "minus five",
            "-5",
            "A. A. Milne",
            "C. S. Lewis",
        ),
    ]
)
texts = st.one_of(hard, st.text(min_size=1, max_size=12), st.lists(hard, min_size=1, max_size=3).map(" ".join))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(texts, min_size=1, max_size=6, unique=True), st.data())
def test_an_option_that_is_repeated_letter_for_letter_is_read_as_that_option(options: list[str], data: Any) -> None:
    at = data.draw(st.integers(0, len(options) - 1))
    text, others = options[at], options[:at] + options[at + 1 :]
    assert choices.choose(text, options) == "ABCDEF"[at]
    said = {
        " ".join(f"{lead}{form}".split()) for lead in ("", "Answer: ") for form in (text, f"{text}.", text.rstrip(". "))
    }
    if any(" ".join(other.split()) in said for other in others):
        return  # another option may be what the sentence says
    for sentence in (f"{text}.", f"Answer: {text}", f"Answer: {text}."):
        assert choices.choose(sentence, options) == "ABCDEF"[at], sentence


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["1914\u20131918", "1939\u20131945"], "From 1914-1918"),
        (["CO\u2082", "H\u2082O"][::-1], "It is H2O"),
        (["10 m/s\u00b2", "9.8 m/s\u00b2"], "10 m/s^2"),
        (SIGNS, "So x > 1."),
        (SIGNS[::-1], "x=1"),
        (TEMPERATURES, "It is \u22125\u00b0C."),
        (TEMPERATURES, "minus 5 \u00b0C"),
        (TEMPERATURES[1:], "It is 5 \u00b0C"),
        (["$\\frac{1}{2}$", "$\\frac{1}{3}$"], "\u00bd"),
        (["\u00be cup", "\u00bd cup"], "3/4 cup"),
        (["10^3", "10^2"], "10\u00b3"),
        (["a*b", "a+b"], "a * b"),
        (["<div>", "<p>", "<b>"], "The tag is <div>."),
        (["$\\beta$", "$\\alpha$"], "It is \u03b2"),
        (["0.5", "5", "50"], ".5"),
        (["0.5", "5", "50"], "0.50"),
        (["50%", "5%", "0.5%"], "about 50 percent"),
        (["50%", "5%", "0.5%"], "50 %"),
        (["1,000", "1000000", "10"], "It costs 1000."),
        (["$5", "$50"], "$5"),
        (["$\\sqrt{2}$", "$2$"], "It is \u221a2"),
        (["Fe\u00b2\u207a", "Fe\u00b3\u207a"], "Fe2+"),
        (["12 \u00b0C", "30 \u00b0C", "20 \u00b0C", "5 \u00b0C"], "The thermometer shows 12 \u00b0C."),
        (["20 A", "10 A", "30 A"], "The current is 20 A"),
        (["7 C", "5 C", "9 C"], "The charge is 7 C."),
        (["vitamin D", "vitamin A", "vitamin K"], "It is vitamin D."),
        (["point D", "point C", "point A"], "It lies on point D."),
        (["Group C", "Group A", "Group B", "Group D"], "I would say Group C"),
        (LETTERS, "B"),
        (LETTERS, "A. B"),
        (["C", "D", "A", "B"], "Point C"),
        (PAIRS, "It is A and B"),
        (PAIRS[::-1], "None of the above."),
        (["Cannot be determined", "x", "y"], "It cannot be determined from the image."),
        (["only A", "both A and B", "only B", "neither"], "only A"),
        ([*CHINESE[1:], CHINESE[0]], "\u5e94\u8be5\u662f\u84dd\u8272\u3002"),
        (ANIMALS, "It's not a dog but a bear"),
        (ANIMALS, "**A**\n\nIt is a bear, not a dog."),
        (ANIMALS, "A\nThe others are wrong: B is a dog and C is a cat."),
        (COLOURS, "A. B and C are too bright, and D is dark."),
        (COLOURS, "B is wrong, so A"),
        (COLOURS, "Option B is not right, option A is."),
        (COLOURS, "Option A is right, option B is not."),
        (COLOURS, "The answer is not B, it is A"),
        (COLOURS, "The answer is B. Actually no, it is A."),
        (COLOURS, "Answer: B. Wait, that is wrong. Answer: A"),
        (COLOURS, "A. Wait, let me double check. Yes."),
        (COLOURS, "The answer is A. Option B is blue, option D is black."),
        (COLOURS, "Between A and B, I pick A."),
        (COLOURS, "I rule out B and C, so A"),
        (COLOURS, "I'm not sure, but I think A"),
        (COLOURS, "A rather than B"),
        (COLOURS, "\u7b54\u6848\u662fA"),
        (COLOURS, "<A>"),
        (COLOURS, "### Final Answer\n**A**"),
        (COLOURS, "My answer: A (95% sure)"),
        (["3/4", "1/4", "1/2"], "0.75"),
        (["0.75", "0.25"], "3/4"),
        (["\u00be cup", "\u00bd cup"], "0.75"),
        (["1/3", "1/4"], "0.33"),
        (["2 1/2", "2"], "2.5"),
        (["12 cm", "15 cm"], "12"),
        (["12 cm", "12 m", "15 cm"], "12 centimeters"),
        (["12", "13"], "12 cm"),
        (["50%", "5%"], "50"),
        (["$5", "$50"], "5 dollars"),
        (["-5 \u00b0C", "5 \u00b0C"], "minus five"),
        (["45\u00b0", "90\u00b0"], "45 degrees"),
        (["13", "3", "30"], "thirteen"),
        (["21", "20", "1"], "twenty-one"),
        (["21", "20", "1"], "There are twenty one."),
        (["twenty-one", "twenty", "one"], "21"),
        (["205", "200", "5"], "It is two hundred and five"),
        (["1.5 million", "1.5 billion"], "1,500,000"),
        (["1,500,000", "1.5"], "It is 1.5 million"),
        (["A. A. Milne", "C. S. Lewis"], "A. A. Milne"),
        (["C. S. Lewis", "A. A. Milne"], "It is C. S. Lewis"),
        (["A. A. Milne", "C. S. Lewis"], "A. A. A. Milne"),
        (COLOURS, "A. I think it is red"),
        (COLOURS, "I choose A. A is the best"),
    ],
)
def test_the_first_option_is_read(options: list[str], answer: str) -> None:
    assert choices.choose(answer, options) == "A"


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "not A",
            "A or B",
            "A/B",
            "The answer is A or B.",
            "The answer is A, B",
            "Answer: B or maybe C",
            "AB",
            "A B C D",
        ),
        *(
            "Neither A nor B",
            "Both A and B",
            "A, B, C and D",
            "red or blue",
            "not red",
            "There is no red.",
            "Not option B",
        ),
        *(
            "The answer cannot be A",
            "A. red B. blue C. green D. black",
            "(A) red\n(B) blue\n(C) green",
            "B. But C may be, too.",
        ),
        *(
            "It is not red, not blue",
            "The answer is A. Wait, no.",
            "A. Wait, that is wrong.",
            "I can't choose between A and B",
        ),
        *(
            "I cannot determine whether it is red",
            "Sorry, I can't help with that. A",
            "I don't know",
            "None of these",
            "",
            "E",
        ),
        *(
            "Figure A shows a chart",
            "vitamin D",
            "hepatitis B",
            "25 C",
            "It is 25 \u00b0C",
            "Plan B",
            "point D",
            "Group C",
        ),
        *("type A blood", "C major", "U.S.A.", "500 B.C.", "C++", "B-2 bomber", "A picture of things", "Mr. B", "C 1"),
        *(
            "There are 3 C batteries",
            "It goes from A to B",
            "A to B",
            "the C note",
            "The arrow starts at B and ends at C",
            "The part labelled D",
            "J. D. Salinger",
            "D.C.",
            "I think so",
            "reddish",
            "\\boxed{A} or \\boxed{B}",
        ),
        *("<think>It may be A", "A</think>", "<think>A</think>", "<|channel|>analysis<|message|>A or B<|end|>"),
    ],
)
def test_hedges_denials_refusals_and_names_are_no_answer(answer: str) -> None:
    assert choices.choose(answer, COLOURS) is None


@pytest.mark.parametrize(
    "answer",
    [
        *("A. A. Milne", "A.A. Milne", "A A Milne", "The author is A. A. Milne.", "The answer is A. A. Milne"),
        *("It is C. S. Lewis", "C. S. Lewis", "C S Lewis", "B. B. King", "B B King", "I think D. H. Lawrence wrote it"),
    ],
)
def test_initials_are_no_letters(answer: str) -> None:
    assert choices.choose(answer, COLOURS) is None


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["12 cm", "12 m"], "12"),
        (["1.5 million", "1.5 billion"], "1.5"),
        (["2", "3"], "2%"),
        (["0.5", "5"], "50%"),
        (["1/3", "1/4"], "0.3"),
        (["5 and above", "below 5"], "5"),
        (["3 red cubes", "3 blue cubes"], "3"),
        (["10^3", "5"], "10"),
        (["12 cm", "15 cm"], "12 mm"),
    ],
)
def test_a_number_that_fits_several_options_or_another_unit_names_none(options: list[str], answer: str) -> None:
    assert choices.choose(answer, options) is None


@pytest.mark.parametrize(
    "before",
    [
        "<think>It could be A or B. Option A has</think>{}",
        "It could be A.\n</think>\n\n{}",
        "<THINK>\nA\n</THINK>\n<answer>{}</answer>",
        "<thinking>A</thinking><answer>{}",
        "<reasoning>A?</reasoning>\nThe answer is {}.",
        "<think>A <answer>{}</answer>",
        "\u25c1think\u25b7A\u25c1/think\u25b7{}",
        "[THINK]A[/THINK]{}",
        "<seed:think>A</seed:think>{}",
        "<unused94>thought\nA<unused95>{}",
        "<|channel>thought\nA<channel|>{}",
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
        "analysisThe user wants A.assistantfinal{}",
        "<|begin_of_thought|>A<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
        "<|START_THINKING|>A<|END_THINKING|>{}",
        "<SUMMARY>s</SUMMARY><CAPTION>A</CAPTION><REASONING>A</REASONING><CONCLUSION> {} </CONCLUSION>",
        "<think>A</think>So <|begin_of_box|>{}<|end_of_box|>",
        "A is tempting, but the final answer is $\\boxed{{\\text{{{}}}}}$.",
        "Here is my thought process: A. Here is my response: {}",
        "{}<think>A</think>",
        "<think>\n\n</think>\n\n{}",
    ],
)
def test_what_stands_before_the_answer_is_set_aside(before: str) -> None:
    answer = before.format("B")
    assert choices.choose(answer, COLOURS) == "B"
    yes = {"question_id": "1", "category": "count", "answer": "Yes"}
    assert robust("mme", yes, before.replace("A", "No").format("Yes")) == 1.0
    assert robust("gqa", {"answer": "truck"}, before.replace("A", "a car").format("truck")) == 1.0
    assert robust("chartqa", {"answer": "14"}, before.replace("A", "21").format("14")) == 1.0


def test_long_reasoning_is_set_aside_before_an_answer_is_cut_to_its_ends() -> None:
    assert choices.choose(f"<think>{'A or C. ' * 5000}</think>B{' It is blue.' * 2000}", COLOURS) == "B"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("**x** and *y*", "x and y"),
        ("a*b*c", "a*b*c"),
        ("$5 and $50", "$5 and $50"),
        ("$x$", "x"),
        ("<b>x</b>", "x"),
        ("<p>", "<p>"),
        ("2\u00bd", "2 1/2"),
        ("2\\frac{1}{2}", "2 1/2"),
        ("\\frac{a+b}{c}", "(a+b)/c"),
        ("$H_{2}O$", "H2O"),
        ("60^\\circ", "60\u00b0"),
    ],
)
def test_markup_goes_only_where_it_is_markup(text: str, form: str) -> None:
    assert plain.plain(text) == form


@pytest.mark.parametrize("rules", ["cambrian", "robust"])
@pytest.mark.parametrize("said", ["D", "(D)", "D. bird"])
def test_an_option_that_is_missing_does_not_move_the_letters_behind_it(rules: str, said: str) -> None:
    record = {"index": 7, "A": "cat", "B": "dog", "C": "nan", "D": "bird", "answer": "D", "category": "x"}
    rule = load_scorer(load_benchmark("mmbench_en")).rules[rules]
    assert rule(record, said) == (1.0, "D", "")
    assert rule(record, "C")[:2] == (0.0, None)
    if rules == "robust":
        assert rule(record, "bird")[:2] == (1.0, "D")
        asked = {"question": "Where?\nA. left\nB. right\nD. ahead\nAnswer with a letter.", "answer": "D"}
        real = load_scorer(load_benchmark("realworldqa")).rules[rules]
        assert [real(asked, text)[:2] for text in (said[:3], "ahead", "C")] == [(1.0, "D"), (1.0, "D"), (0.0, None)]


def test_an_empty_answer_is_not_an_option_that_is_missing() -> None:
    texts = {"choice_a": "x", "choice_b": "y", "choice_c": "", "choice_d": None}
    assert robust("seed", {"question_type_id": 1, "answer": "C", **texts}, "") == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5 m/s\u00b2", 5.0),
        ("10\u00b3", None),
        ("2\u00bd", 2.5),
        ("$\\frac{1}{2}$", 0.5),
        ("minus 5", -5.0),
        ("3 300", 3300.0),
        ("26 degrees, since 90-64=26", 26.0),
        ("3 x 4 = 12", 12.0),
        ("thirteen", 13.0),
        ("Twenty-one.", 21.0),
        ("ninety nine", 99.0),
        ("two thousand five hundred and six", 2506.0),
        ("minus twelve", -12.0),
        ("thirteen cm", 13.0),
        ("1.5 million", 1_500_000.0),
        ("$1.1 billion", 1_100_000_000.0),
        ("about 3 hundred people", 300.0),
        ("two million", 2_000_000.0),
        *[(text, None) for text in ("hundred", "seven or eight", "nineteen ninety", "1/2 million", "ten to twenty")],
        *[
            (text, None)
            for text in ("14, 15", "1-5", "\u221a2", "10 minus 5", "5, or maybe 6", "from 60 to 80", "5, so 6 or 7")
        ],
    ],
)
def test_one_number_is_read_or_none(text: str, value: float | None) -> None:
    assert quantities.number(plain.plain(text)) == value


@pytest.mark.parametrize(
    ("gold", "said", "score"),
    [
        *[
            ("0.57", "57%", 1.0),
            ("57%", "0.57", 1.0),
            ("0.57", "57 percent", 1.0),
            ("0.57", "0.57", 1.0),
            ("57%", "57", 1.0),
        ],
        *[("0.57", "57", 0.0), ("14", "1400%", 0.0), ("57%", "5.7", 0.0), ("-5", "minus 5", 1.0), ("5", "-5", 0.0)],
        *[("2019", "2019.0", 1.0), ("2019.0", "2018", 0.0), ("1998", "1950", 0.0), ("1998", "in 1998", 1.0)],
        *[("1,998", "1950", 1.0), ("1500", "1520", 1.0)],
        *[("12 cm", "12", 1.0), ("12 cm", "12.3 centimetres", 1.0), ("12", "12 cm", 1.0), ("12 cm", "12 mm", 0.0)],
        *[("3/4", "0.75", 1.0), ("0.75", "3/4", 1.0), ("3/4", "0.5", 0.0), ("30 years", "31", 1.0)],
        *[("13", "thirteen", 1.0), ("thirteen", "13", 1.0), ("21", "twenty-one", 1.0), ("21", "twenty", 1.0)],
        *[("1.5 million", "1500000", 1.0), ("1.5 million", "1.5", 1.0), ("1.5", "1.5 million", 1.0)],
        *[("1.5 million", "1.5 billion", 0.0), ("2 million", "two million", 1.0), ("1500000", "1.5", 0.0)],
        *[("2018", "two thousand eighteen", 1.0), ("2018", "two thousand seventeen", 0.0)],
    ],
)
def test_percentages_and_years_hold_wherever_a_share_of_the_gold_is_allowed(gold: str, said: str, score: float) -> None:
    free = {"question_type": "free_form", "choices": None, "answer": gold}
    listed = {"id": "validation_Art_1", "question_type": "open", "options": "[]", "answer": gold}
    assert robust("chartqa", {"answer": gold}, said) == score
    assert robust("mathvista", free, said) == score
    assert robust("mmmu", listed, said) == score


def test_an_early_year_is_exact_where_the_question_asks_for_a_time() -> None:
    record = {"question_type": "free_form", "choices": None, "answer": "1503", "query": "In which year was it painted?"}
    assert [robust("mathvista", record, said) for said in ("1503", "1505")] == [1.0, 0.0]


def test_words_and_digits_are_one_number_wherever_words_are_compared() -> None:
    for gold, said in (("13", "thirteen"), ("twenty-one", "21"), ("2 million", "two million"), ("one", "1")):
        assert robust("gqa", {"answer": gold}, f"It says {said}") == 0.0
        assert robust("gqa", {"answer": gold}, said) == robust("gqa", {"answer": said}, gold) == 1.0
    assert robust("gqa", {"answer": "20 1"}, "twenty-one") == 0.0
    room = {"answer": "12 cm", "question": ""}
    assert [robust("realworldqa", room, said) for said in ("12", "12 cm", "12 mm")] == [1.0, 1.0, 0.0]


def test_a_name_that_begins_with_a_number_is_no_number_to_be_near() -> None:
    assert [robust("chartqa", {"answer": "Group 3"}, said) for said in ("3", "Group 3")] == [0.0, 1.0]
    assert [robust("chartqa", {"answer": "3 Doors Down"}, said) for said in ("3", "3 Doors Down")] == [0.0, 1.0]


@given(st.integers(0, 99), st.sampled_from(["", "hundred", "thousand", "million"]), st.integers(0, 99))
def test_a_number_is_read_from_its_english_words(above: int, scale: str, below: int) -> None:
    units = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = [*units.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

    def spell(value: int) -> str:
        ten, one = divmod(value, 10)
        return small[value] if value < 20 else tens[ten - 2] + (f"-{small[one]}" if one else "")

    if not scale or not above:
        assert quantities.number(spell(below)) == below
        return
    factor = {"hundred": 100, "thousand": 1000, "million": 10**6}[scale]
    said = f"{spell(above)} {scale}" + (f" and {spell(below)}" if below else "")
    assert quantities.number(said) == above * factor + below


def test_a_list_may_end_in_and() -> None:
    record = {"question_type": "free_form", "choices": None, "answer": "[0, 2]"}
    assert [robust("mathvista", record, said) for said in ("[0, 2]", "0 and 2", "2, 0")] == [1.0, 1.0, 0.0]


def test_a_formula_that_is_read_off_keeps_its_latex() -> None:
    kind = "Handwritten Mathematical Expression Recognition"
    record = {"question_type": kind, "answer": ["y _ { 2 } = \\frac { 1 } { 2 }"]}
    said = ["$y_2 = \\frac{1}{2}$", "\\[y_{2}=\\frac{1}{2}\\]", "y2 = \\frac{1}{2}", "y_2 = 1/2"]
    assert [robust("ocrbench", record, text) for text in said] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        *[("Yes. Wait, no.", "no"), ("No... actually, yes", "yes"), ("Yes, wait for it", "yes"), ("Yes or no", None)],
        *[("No idea", None), ("I cannot say yes or no", None), ("<think>no</think>Yes", "yes"), ("<think>yes", None)],
        ("<think>no. Wait, yes", None),
    ],
)
def test_yes_or_no_is_what_was_said_last_or_nothing(said: str, read: str | None) -> None:
    assert plain.yes_or_no(said) == read


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["\\boxed{", "A or B. ", "<think>", "\n", "1,000,", "**", "\\(", "wait, ", "not a ", "answer is "]
)
def test_a_megabyte_of_the_same_piece_is_read_without_an_answer(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert choices.choose(text, COLOURS) is None
    assert plain.yes_or_no(text) is None
    assert robust("chartqa", {"answer": "14"}, text) == 0.0
