# SPDX-License-Identifier: Apache-2.0
"""The page as text: whole, self-contained, escaped, the same for the same run."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fusetune.plugins import discover
from fusetune.report.contents import gather
from fusetune.report.html import render
from fusetune.report.section import Section
from fusetune.report.sections.learning_rates import LearningRates
from picture_runs import boxes_run, masks_run

VOID = {"meta", "link", "img", "br", "col"}
NASTY = "<script>alert('1')</script>"


class Page(HTMLParser):
    """Tags, attributes, headings and texts; complains of tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.urls = [], [], [], []
        self.headings, self.texts = [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.urls += [v for name, v in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if re.fullmatch(r"h\d", (self.open or [""])[-1]):
            self.headings.append(data)

    def text(self, within=None):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


ALL = [
    "verdict",
    "advice",
    "scores",
    "learning_curves",
    "weights",
    "contributions",
    "diversity",
    "calibration",
    "reliability",
    "confusion",
    "disputed",
    "costs",
    "recipe",
    "environment",
]
LOOKS = {
    "demo": {},
    "bare": {"bare": True},
    "two classes": {"members": ("bert", "xlnet"), "classes": ("no", "yes"), "num_rows": 300},
    "one member": {"members": ("alone",), "num_rows": 50},
    "many": {
        "members": tuple(f"member-with-a-rather-long-name-{i}" for i in range(12)),
        "classes": tuple(f"class {i}" for i in range(100)),
        "num_rows": 400,
        "side": 160,
    },
    "nasty": {
        "members": (NASTY.replace("/", "\u2215"), "b & \"c\" 'd'"),
        "classes": (NASTY, "x&y", '"q"'),
        "failed": {"<b>broken</b>": "failed"},
        "error": f"{NASTY} & more",
        "note": f"{NASTY} </code></pre></details>",
        "num_rows": 80,
    },
}


@pytest.mark.parametrize("look", LOOKS)
def test_pages_are_well_formed_and_self_contained(make_run, look):
    check_page(Page(render(gather(make_run(**LOOKS[look])))))


@pytest.mark.parametrize("make", [boxes_run, masks_run])
def test_pages_with_pictures_are_too(tmp_path, make):
    page = Page(render(gather(make(tmp_path))))
    check_page(page)
    pictures = [attributes for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert page.count("image") + page.count("img") > 3
    assert all(attributes["aria-label"] for attributes in pictures)


def check_page(page):
    assert len(page.ids) == len(set(page.ids))
    assert all(url.startswith(("data:", "#")) for url in page.urls), page.urls
    assert {url[1:] for url in page.urls if url.startswith("#")} <= set(page.ids)
    assert page.count("h1") == 1
    assert page.count("script") == 1
    assert page.count("caption") == page.count("table") - page.count("tfoot")  # cards have headings
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes["aria-label"]


def test_sections_stand_in_order_and_none_is_missing(make_run):
    page = Page(render(gather(make_run())))
    assert [name for name in page.ids if name in ALL] == ALL
    assert set(discover(Section)) == {
        *ALL,
        "residuals",
        "per_label",
        "per_class",
        "learning_rates",
        "masks",
        "boxes",
        "precision_recall",
        "sizes",
    }
    orders = [section.order for section in discover(Section).values()]
    assert len(set(orders)) == len(orders)


def test_prediction_files_leave_their_sections_out(make_run):
    page = Page(render(gather(make_run(bare=True))))
    left_out = {"learning_curves", "costs", "recipe"}
    assert [name for name in page.ids if name in ALL] == [n for n in ALL if n not in left_out]
    assert page.count("img") == 0
    assert "cost per row that is not known" in page.text()


def test_names_of_the_user_are_only_text(make_run):
    html = render(gather(make_run(**LOOKS["nasty"])))
    page = Page(html)
    assert NASTY not in html
    assert page.count("b") == 0
    assert f"{NASTY} & more" in page.text()
    assert NASTY.replace("/", "\u2215") in page.text()
    assert "<b>broken</b>" in page.text()


def test_the_policy_forbids_requests_and_knows_the_pages_own_script(make_run):
    html = render(gather(make_run(num_rows=50)))
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_the_same_run_gives_the_same_bytes(make_run):
    folder = make_run(num_rows=80)
    assert render(gather(folder)) == render(gather(folder))


def test_verdict_scores_and_failures_are_said(make_run):
    folder = make_run(failed={"broken": "failed", "late": "not_run"}, error="card full")
    contents = gather(folder)
    text = Page(render(contents)).text()
    headline, _, rest = contents.verdict.sentence().partition(": ")
    assert headline in text
    assert re.sub(r"\s+", " ", rest) in text
    accuracy = contents.members[0].scores["test"]["accuracy"]
    assert f" {100 * accuracy:.2f} " in text
    low, high = contents.members[0].intervals["accuracy"]
    assert f"{100 * low:.2f}–{100 * high:.2f}" in text
    assert text.count("card full") == 2
    assert "not run" in text
    assert "1,000 test rows" in text


def test_what_was_not_measured_is_a_dash(make_run):
    contents = gather(make_run(num_rows=60))
    first = replace(contents.members[0], scores={"test": {"accuracy": float("nan")}}, intervals={})
    lossy = replace(
        contents.members[1],
        scores={"test": {"accuracy": 0.5, "log_loss": float("inf")}},
        intervals={"accuracy": (0.4, 0.6), "log_loss": (1.0, float("inf"))},
    )
    contents = replace(contents, members=(first, lossy, *contents.members[2:]))
    text = Page(render(contents)).text()
    assert "–" in text
    assert "∞" in text
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", text.lower())


def test_no_verdict_is_said(tmp_path):
    results = {"task": "image_classification", "metric": "accuracy", "members": [], "fusions": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = Page(render(gather(tmp_path)))
    assert "No verdict." in page.text()
    assert [name for name in page.ids if name in ALL] == ["verdict"]


def test_choosing_the_best_member_draws_no_gain(make_run):
    folder = make_run(num_rows=60)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["chosen"] = results["best_member"]
    results["verdict"] |= {"decision": "not_worth_it", "gain": 0.0, "interval": [0.0, 0.0]}
    path.write_text(json.dumps(results))
    page = Page(render(gather(path.parent)))
    assert "fusing adds neither score nor cost" in page.text()
    assert not [1 for tag, a in page.tags if tag == "figure" and a.get("class") == "gain"]


def test_a_blend_is_said_in_words(make_run):
    folder = make_run(num_rows=60)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["fusions"][3] |= {"weights": None, "blend": {"mean": 0.25, "stacking": 0.75, "vote": 0}}
    path.write_text(json.dumps(results))
    text = Page(render(gather(folder))).text()
    assert "auto blends stacking (0.750) and mean (0.250)." in text


def test_counts_of_the_confusion_matrix_equal_the_predictions(make_run):
    from sklearn.metrics import confusion_matrix

    contents = gather(make_run(num_rows=300))
    section = discover(Section)["confusion"]().content(contents)
    chosen, targets = contents.test.chosen, contents.test.targets
    wanted = confusion_matrix(targets.names(), chosen.labels(), labels=list(targets.classes))
    found = [[cell["count"] for cell in row["cells"]] for row in section["matrix"]]
    assert found == wanted.tolist()


def test_many_classes_give_the_top_confusions(make_run):
    contents = gather(make_run(**LOOKS["many"] | {"skill": 3.0}))
    section = discover(Section)["confusion"]().content(contents)
    assert section["matrix"] is None
    counts = {}
    pairs = zip(contents.test.targets.names(), contents.test.chosen.labels(), strict=True)
    for truth, said in pairs:
        if truth != said:
            counts[truth, said] = counts.get((truth, said), 0) + 1
    found = [one["count"] for one in section["confusions"]]
    assert found == sorted(counts.values(), reverse=True)[: len(found)]
    assert all(counts[one["truth"], one["said"]] == one["count"] for one in section["confusions"])


def test_reliability_bins_equal_a_plain_count(make_run):
    contents = gather(make_run(num_rows=500))
    section = discover(Section)["reliability"]().content(contents)
    chosen, targets = contents.test.chosen, contents.test.targets
    tops = chosen.probs_NC.max(axis=1)
    inside = (tops >= 0.5) & (tops < 0.6)
    right = (chosen.labels() == targets.names())[inside]
    assert inside.sum() >= 10
    dots = [(x, y) for x, y, *_ in section["chosen"]["dots"] if 50 <= x < 60]
    x, y = pytest.approx(100 * tops[inside].mean(), abs=0.01), 100 - 100 * right.mean()
    assert dots == [(x, pytest.approx(y, abs=0.01))]
    assert sum(number for *_, number in section["chosen"]["bars"]) == 500


def test_costs_of_a_fusion_hold_its_members(make_run):
    contents = gather(make_run(num_rows=60))
    rows = {row["name"]: row for row in discover(Section)["costs"]().content(contents)["rows"]}
    best = contents.predictor(contents.best_member).cost.predict_s_per_row
    total = sum(one.cost.predict_s_per_row for one in contents.members) + 2e-6
    assert rows["mean"]["ratio"] == f"{total / best:.1f}×"
    assert rows["mean"]["per_row"] == f"{1000 * total:.2f}"
    assert rows[contents.best_member]["ratio"] == "1.0×"
    assert rows["mean"]["parameters"] == "720,000"


def test_rendering_needs_neither_torch_nor_matplotlib(make_run):
    folder = make_run()
    program = (
        "import sys\nfrom fusetune.report.contents import gather\nfrom fusetune.report.html import render\n"
        f"render(gather({str(folder)!r}))\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["False", "False"]


def test_advice_follows_the_verdict_word_by_word(make_run):
    contents = gather(make_run(num_rows=60))
    text = Page(render(contents)).text()
    for sentence in contents.advice:
        assert sentence in text


def test_fusions_show_p_and_its_correction(make_run):
    contents = gather(make_run(num_rows=200))
    fusion = replace(contents.fusions[0], p_value=0.0123, p_holm=0.0492)
    contents = replace(contents, fusions=(fusion, *contents.fusions[1:]))
    text = Page(render(contents)).text()
    assert "0.049 alone 0.012" in text


def test_contributions_come_with_the_greatest_first(make_run):
    contents = gather(make_run(num_rows=200))
    found = discover(Section)["contributions"]().content(contents)
    shares = {name: one["shapley"] for name, one in contents.contributions.members.items()}
    assert [one["name"] for one in found["members"]] == sorted(shares, key=lambda n: -shares[n])
    text = Page(render(contents)).text()
    assert f"{100 * contents.contributions.score_all:.2f} % with all of them" in text
    assert "None" not in text


def test_sampled_contributions_say_how_sure_they_are(make_run):
    contents = gather(make_run(num_rows=200))
    members = {"a": {"leave_one_out": 0.01, "shapley": 0.0312, "standard_error": 0.0021}}
    sampled = replace(contents.contributions, members=members, permutations=32, rows=50, of="mean")
    text = Page(render(replace(contents, contributions=sampled))).text()
    assert "+3.12 ± 0.21" in text
    assert "32 orders drawn" in text
    assert "Judged on 50 of the test rows" in text
    assert "the plain mean of the members" in text


def test_diversity_shows_means_and_every_pair(make_run):
    contents = gather(make_run(num_rows=200))
    found = discover(Section)["diversity"]().content(contents)
    rows = {title: text for title, text, _ in found["measures"]}
    assert rows["Double fault"] == f"{100 * contents.diversity['double_fault'].mean:.1f}\u202f%"
    assert rows["Q statistic"] == f"{contents.diversity['q_statistic'].mean:.2f}"
    assert rows["Oracle accuracy"] == f"{100 * contents.oracle_accuracy:.1f}\u202f%"
    titles = ["Disagreement, %", "Double fault, %", "Q statistic", "Error correlation"]
    assert [one["title"] for one in found["folded"]] == titles
    cell = found["folded"][0]["rows"][0][2][1]["text"]
    assert cell == f"{100 * contents.diversity['disagreement'].matrix_MM[0, 1]:.1f}"


def test_calibration_shows_before_and_after_and_draws_both(make_run):
    contents = gather(make_run(num_rows=500))
    found = discover(Section)["calibration"]().content(contents)
    names = [(row["metric"].name, row["bins"]) for row in found["rows"]]
    place = names.index(("expected_calibration_error", ", bins of equal width"))
    assert names[place + 1] == ("expected_calibration_error", ", bins of equal mass")
    loss = next(row for row in found["rows"] if row["metric"].name == "log_loss")
    before, after = contents.calibration.before["log_loss"], contents.calibration.after["log_loss"]
    assert (loss["before"], loss["after"]) == (f"{before:.4f}", f"{after:.4f}")
    assert loss["better"] == ("after" if after < before else "before")
    drawn = discover(Section)["reliability"]().content(contents)
    bins = contents.calibration.bins
    enough = [rows >= 10 for rows in bins["rows"]]
    wanted = [100 * x for x, kept in zip(bins["confidence"], enough, strict=True) if kept]
    assert [x for x, _ in drawn["before"]] == pytest.approx(wanted, abs=0.01)
    without = discover(Section)["reliability"]().content(replace(contents, calibration=None))
    assert without["before"] == []


def test_range_tests_are_drawn_with_the_rate_that_was_taken(make_run):
    contents = gather(make_run())
    rates = (1e-5, 1e-4, 1e-3, 1e-2)
    test = {"rates": rates, "losses": (2.0, 1.5, 1.0, 3.0), "lr": 1e-4, "fell": True}
    flat = {"rates": (1e-7,), "losses": (2.0,), "lr": 3e-4, "fell": False}
    drawn = replace(contents, range_tests={"<i>vgg": test, "bert": flat})
    page = Page(render(drawn))
    assert "learning_rates" in page.ids and page.count("i") == 0
    assert "0.0001 was taken" in page.text()
    assert "0.0003 was taken: no rate lowered the loss" in page.text()
    content = LearningRates().content(drawn)
    first, second = content["panels"]
    assert first["points"][1][0] == first["taken_at"] == pytest.approx(100 / 3, abs=0.01)
    assert [text for _, text in first["decades"]] == ["−5", "−4", "−3", "−2"]
    assert second["taken_at"] is None
    assert LearningRates().content(contents) is None
