"""The public leaderboard: what is ranked together, what is kept apart and why, and when a row counts as verified."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_example import PAIR, final, measured, record, resnet, write_study

from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.report.reproduction import Reproduction, SeedResult, Surroundings, judged
from kdbench.standings.command import run
from kdbench.standings.conditions import conditions, contrast
from kdbench.standings.entry import Entry, read, read_all
from kdbench.standings.files import NAMES, contents
from kdbench.standings.merge import MergedTable, Standings, merge
from kdbench.standings.spot import cost_s, spot_check
from kdbench.standings.status import CLAIMED, read_reproductions, status
from kdbench.submission.schema import RowClaim, Submission

TESTED = {"test_hash": "sha256:7e57ed"}
EVIL = "<script>alert(1)</script>"


def asked(methods: tuple[str, ...] = ("scratch", "kd"), **sections: Mapping[str, Any]) -> Callable[[Any], None]:
    """An edit of the example's study."""

    def change(study: dict[str, Any]) -> None:
        study["methods"] = {name: {} for name in methods}
        study["final"]["seeds"] = 3
        for name, values in sections.items():
            study[name] |= values

    return change


def records(shift: float = 0.0, methods: tuple[str, ...] = ("scratch", "kd"), **more: Any) -> list[TrialRecord]:
    """A teacher and three seeds of each method: 90, 91, 92 % of the first, one more of each further one."""

    facts = measured(93.6, np.random.default_rng(0), 56, 1.0, False)
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, facts, environment=TESTED)
    return [teacher] + [
        final(method, seed, 90.0 + shift + seed + i, environment={**TESTED, **more.get("environment", {})},
              teacher=None if method == "scratch" else teacher.key,
              **{name: value for name, value in more.items() if name != "environment"})
        for i, method in enumerate(methods) for seed in range(3)
    ]  # fmt: skip


def entry(folder: Path, name: str, made: list[TrialRecord], change: Callable[[Any], None] | None = None) -> Entry:
    edit = change or asked()

    def named(study: dict[str, Any]) -> None:
        edit(study)
        study["study"] = name

    return read(write_study(folder / name, made, named))


def only(standings: Standings) -> MergedTable:
    (table,) = standings.tables
    return table


def cells(standings: Standings) -> set[str]:
    return {title for comparison in standings.comparisons for title, _, _ in comparison.cells}


def test_rows_of_equal_conditions_are_ranked_together_under_the_names_of_their_studies(tmp_path: Path) -> None:
    table = only(merge([entry(tmp_path, "ada", records()), entry(tmp_path, "byron", records(0.5))]))
    ranked = [(x.rank, x.row.method, x.submission, x.row.score) for x in table.lines if x.rank]
    assert ranked == [
        (1, "kd", "byron", 92.5), (2, "kd", "ada", 92.0), (3, "scratch", "byron", 91.5), (4, "scratch", "ada", 91.0),
    ]  # fmt: skip
    behind = table.lines[2].behind  # the seeds are shared, and every one is half a point behind
    assert behind is not None and (behind.mean, behind.paired, behind.interval.low) == (-0.5, True, -0.5)
    assert [x.near for x in table.lines if x.rank] == [False] * 4


def test_equal_means_share_a_rank(tmp_path: Path) -> None:
    table = only(merge([entry(tmp_path, "ada", records()), entry(tmp_path, "byron", records(1.0))]))
    assert [(x.rank, x.submission, x.row.method) for x in table.lines if x.rank] == [
        (1, "byron", "kd"), (2, "ada", "kd"), (2, "byron", "scratch"), (4, "ada", "scratch"),
    ]  # fmt: skip


DIFFERENT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("final epochs", {"epochs": 50}, {}),
    ("training", {"lr": 0.05}, {"search": {"shared": {}}}),
    ("images and split (hash)", {"environment": {"data_hash": "sha256:other"}}, {}),
    ("test images (hash)", {"environment": {"test_hash": "sha256:other"}}, {}),
    ("teacher's weights (hash)", {"environment": {"teacher_hash": "sha256:other"}}, {}),
    ("precision used", {"environment": {"precision": "bf16"}}, {}),
    ("student space", {}, {"student": {"depth": [8, 20]}}),
    ("selection rule", {}, {"final": {"select": "best"}}),
    ("final seeds", {}, {"final": {"seeds": 5}}),
    ("data", {"data": {"name": "cifar10", "validation": 1000}}, {}),
]


@pytest.mark.parametrize(("title", "made", "change"), DIFFERENT, ids=[title for title, _, _ in DIFFERENT])
def test_a_cell_that_differs_keeps_submissions_apart_and_is_named(
    title: str, made: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    own = {"search": {"shared": {}}} if title == "training" else {}
    standings = merge([
        entry(tmp_path, "ada", records(), asked(**own)),
        entry(tmp_path, "byron", records(1.0, **made), asked(**change)),
    ])  # fmt: skip
    assert len(standings.tables) == 2
    assert title in cells(standings)
    (sentence,) = standings.comparisons
    assert str(sentence).startswith(f"ada and byron are not ranked together ({PAIR}). They differ in ")


def test_the_sentence_says_what_each_has_and_leaves_out_what_they_share(tmp_path: Path) -> None:
    (sentence,) = merge([entry(tmp_path, "ada", records()), entry(tmp_path, "byron", records(epochs=50))]).comparisons
    assert sentence.cells == (("final epochs", "100", "50"),)
    assert str(sentence).endswith("They differ in final epochs: 100 against 50.")
    assert contrast("lr=0.1, milestones=[60, 80]", "lr=0.2, milestones=[60, 80]") == ("lr=0.1", "lr=0.2")
    assert contrast("model=cnn, width=[1, 2]", "model=cnn") == ("width=[1, 2]", "nothing more")


def test_a_condition_that_is_not_known_is_like_no_other(tmp_path: Path) -> None:
    made = [final(method, seed, 90.0 + seed) for method in ("scratch", "kd") for seed in range(3)]  # no test hash
    standings = merge([entry(tmp_path, "ada", made), entry(tmp_path, "byron", made)])
    assert len(standings.tables) == 2
    assert [c for _, c, _ in standings.comparisons[0].cells] == ["not known"]


def test_the_precision_that_was_asked_for_does_not_matter_but_the_one_used_does(tmp_path: Path) -> None:
    def with_precision(asked_for: str) -> list[TrialRecord]:

        made = records()
        return [replace(r, spec=replace(r.spec, train={**r.spec.train, "precision": asked_for})) for r in made]

    one, other = entry(tmp_path, "a", with_precision("auto")), entry(tmp_path, "b", with_precision("fp32"))
    assert len(merge([one, other]).tables) == 1


def test_a_published_checkpoint_is_the_same_teacher_whatever_its_copy_hashes_to(tmp_path: Path) -> None:
    def made(sha256: str, teacher_hash: str) -> list[TrialRecord]:

        facts = measured(93.6, np.random.default_rng(0), 56, 1.0, False)
        method = {"name": "checkpoint", "sha256": sha256}
        teacher = record("teacher", method, resnet(56), {}, facts, environment=TESTED)
        around = {**TESTED, "teacher_hash": teacher_hash}
        return [teacher, *(final("kd", s, 90.0 + s, teacher=teacher.key, environment=around) for s in range(3))]

    one, same, other = (
        entry(tmp_path, name, made(sha, weights), asked(("kd",)))
        for name, sha, weights in (("a", "4bfd" * 16, "x"), ("b", "4bfd" * 16, "y"), ("c", "12fc" * 16, "x"))
    )
    assert conditions(one)[0].cells["teacher_hash"] == "checkpoint 4bfd4bfd4bfd"
    assert len(merge([one, same]).tables) == 1
    assert cells(merge([one, other])) == {"teacher's weights (hash)"}


def test_a_row_that_its_own_study_does_not_rank_is_not_ranked_here(tmp_path: Path) -> None:
    made = [*records(), *(final("fitnet", s, 99.0, epochs=50, environment=TESTED) for s in range(3))]
    table = only(merge([entry(tmp_path, "ada", made, asked(("scratch", "kd", "fitnet")))]))
    fitnet = next(x for x in table.lines if x.row.method == "fitnet")
    assert fitnet.rank is None and table.lines[-1] is fitnet
    assert "final epochs: 50; the others: 100" in fitnet.row.unranked


def test_the_very_same_records_are_one_row_under_both_names(tmp_path: Path) -> None:
    mine = [*records(), *(final("fitnet", s, 95.0 + s, environment=TESTED) for s in range(3))]
    standings = merge([
        entry(tmp_path, "ada", records()), entry(tmp_path, "byron", mine, asked(("scratch", "kd", "fitnet"))),
    ])  # fmt: skip
    assert [(x.row.method, x.submission) for x in only(standings).lines if x.rank] == [
        ("fitnet", "byron"), ("kd", "ada, byron"), ("scratch", "ada, byron"),
    ]  # fmt: skip
    assert standings.notices[0].startswith("ada and byron share 6 final records (same key, same content)")


def test_the_same_training_made_twice_is_noticed_and_both_rows_stay(tmp_path: Path) -> None:
    standings = merge([entry(tmp_path, "ada", records()), entry(tmp_path, "byron", records(0.5))])
    assert any("hold 6 final records of the same key with other content" in text for text in standings.notices)
    assert len([x for x in only(standings).lines if x.rank]) == 4


def test_a_method_under_another_name_with_the_same_results_is_noticed(tmp_path: Path) -> None:
    def renamed() -> list[TrialRecord]:

        return [
            replace(r, spec=replace(r.spec, slot={**r.spec.slot, "row": "my_kd"})) if r.spec.method_name == "kd" else r
            for r in records()
        ]

    standings = merge([
        entry(tmp_path, "ada", records()), entry(tmp_path, "byron", renamed(), asked(("scratch", "my_kd"))),
    ])  # fmt: skip
    table = only(standings)
    assert [(x.rank, x.row.method, x.submission) for x in table.lines if x.rank] == [
        (1, "kd", "ada"), (1, "my_kd", "byron"), (3, "scratch", "ada, byron"),
    ]  # fmt: skip
    assert table.notes == (
        "kd of ada and my_kd of byron have equal results and curves to the last bit in all 3 trainings, under other "
        "keys.",
    )


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for place, shift in (("first", 0.0), ("second", 0.5)):
        write_study(tmp_path / place, records(shift), asked())
    entries, refused = read_all([tmp_path / "second", tmp_path / "first"])
    assert [e.label for e in entries] == ["cifar10 (first)", "cifar10 (second)"] and refused == []


def test_the_order_of_the_arguments_and_where_the_folders_lie_do_not_matter(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        entry(tmp_path / place, "ada", records())
        entry(tmp_path / place, "byron", records(epochs=50))
    one = merge(*read_all([tmp_path / "here" / "ada", tmp_path / "here" / "byron"]))
    other = merge(*read_all([tmp_path / "there/deeper" / "byron", tmp_path / "there/deeper" / "ada"]))
    assert contents(one) == contents(other)
    assert not any(str(tmp_path).encode() in data for data in contents(one).values())


def test_a_folder_that_holds_studies_stands_for_them_and_one_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    entry(tmp_path / "all", "ada", records())
    (tmp_path / "all" / "empty").mkdir()
    entries, refused = read_all([tmp_path / "all"])
    assert [e.label for e in entries] == ["ada"]
    assert [str(r) for r in refused] == [
        "empty: refused: submission.json: No such file or directory. Make a submission with `kdbench submit`."
    ]
    with pytest.raises(KdbenchError, match="no such folder"):
        read_all([tmp_path / "nowhere"])


def test_the_same_folder_twice_is_one_and_a_copy_of_the_same_name_is_refused(tmp_path: Path) -> None:
    entry(tmp_path, "ada", records())
    shutil.copytree(tmp_path / "ada", tmp_path / "more" / "ada")
    entries, refused = read_all([tmp_path / "ada", tmp_path / "ada", tmp_path / "more" / "ada"])
    assert len(entries) == 1
    assert "holds what another folder of this name holds: ada" in str(refused[0])


def test_bad_ones_are_refused_and_others_go_on(tmp_path: Path) -> None:
    write_study(tmp_path / "good", records(), asked())
    bad = write_study(tmp_path / "bad", records(), asked())
    path = next((bad / "records").glob("*.json"))
    path.write_text(path.read_text().replace('"protocol":1', '"protocol":2'))
    said: list[str] = []

    def say(text: str, err: bool = False) -> None:
        said.append(text)

    assert run([tmp_path / "good", bad], tmp_path / "out", check=False, spot_s=None, say=say) == 0
    assert run([tmp_path / "good", bad], None, check=True, spot_s=None, say=say) == 1
    assert run([tmp_path / "good"], None, check=True, spot_s=None, say=say) == 0
    assert said[0].startswith(f"bad: refused: records/{path.name}: made under protocol 2; this kdbench has protocol 1")
    assert "Refused" in (tmp_path / "out" / "standings.md").read_text()
    with pytest.raises(KdbenchError, match="no leaderboard"):
        run([bad], tmp_path / "out", check=False, spot_s=None, say=say)


# --- verified rows ----------------------------------------------------------------------------------------------------


def reproduction(of: Entry, shift: float = 0.0, by: str = "Mary Somerville", **change: Any) -> dict[str, Any]:
    """A re-run of the first seed of the kd row of an entry, its accuracy moved by `shift`."""
    row = next(row for row in of.board.rows if row.method == "kd")
    before = of.results.by_key[row.keys[0]]
    score = before.result["test_top1_pct"]
    again = [
        SeedResult(
            seed=before.spec.seed, key=before.key, recorded_top1_pct=score, reproduced_top1_pct=score + shift,
            equal=shift == 0,
        )
    ]  # fmt: skip
    verdict, reason, interval = judged(list(row.scores.values()), again)
    around = {"device": "cpu", "hardware": {"cpu": "AMD EPYC 7B13 64-Core Processor"}}
    made = Reproduction(
        row=row.id, study=of.study, protocol=1, by=by, seeds=tuple(again), interval=interval, verdict=verdict,
        reason=reason, environment=Surroundings(recorded=around, reproduced=around),
        record_sha256={key: of.record_sha256[key] for key in row.keys},
    )  # fmt: skip
    return made.to_json() | change


def with_reproductions(folder: Path, *made: dict[str, Any]) -> Entry:
    of = folder / "reproductions"
    of.mkdir(exist_ok=True)
    for number, one in enumerate(made):
        (of / f"{number}.json").write_text(json.dumps(one))
    return read(folder)


def kd_status(of: Entry) -> tuple[str, tuple[str, ...], list[str]]:
    good, bad = read_reproductions(of)
    found = status(next(row for row in of.board.rows if row.method == "kd"), good)
    return found.word, found.notes, bad


def test_a_row_is_claimed_until_somebody_else_has_run_it(tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    assert kd_status(ada) == (CLAIMED, (), [])
    word, notes, bad = kd_status(with_reproductions(tmp_path / "ada", reproduction(ada)))
    assert (word, bad) == ("verified (bit-equal)", [])
    assert notes == (
        "bit-equal: 1 of 3 seeds trained again by Mary Somerville on AMD EPYC 7B13, the same kind of processor "
        "(0.json)",
    )


@pytest.mark.parametrize(
    ("shift", "word"),
    # scores 91, 92, 93: s = 1, and t(0.975, 2) = 4.3027 gives 92 +- 4.3027 sqrt(1/3 + 1) = 92 +- 4.968 for one training
    [(4.96, "verified (inside interval)"), (-4.96, "verified (inside interval)"), (-4.98, "not reproduced")],
)
def test_a_re_run_within_the_prediction_interval_verifies_and_one_outside_does_not(
    shift: float, word: str, tmp_path: Path
) -> None:
    ada = entry(tmp_path, "ada", records())
    recorded = reproduction(ada)["seeds"][0]["recorded_top1_pct"]
    made = reproduction(ada, shift + 92.0 - recorded)
    assert kd_status(with_reproductions(tmp_path / "ada", made))[0] == word


def test_one_re_run_outside_outweighs_those_that_agree(tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    of = with_reproductions(tmp_path / "ada", reproduction(ada), reproduction(ada, -20.0, by="Charles Babbage"))
    word, notes, _ = kd_status(of)
    assert word == "not reproduced" and len(notes) == 2


REASONS: list[tuple[dict[str, Any], str]] = [
    ({"by": ""}, "it names nobody in 'by'"),
    ({"protocol": 2}, "made under protocol 2, not 1"),
    ({"row": "00000000"}, "row 00000000 of study 'ada' is not among the rows of ada"),
    ({"study": "other"}, "of study 'other' is not among the rows of ada"),
    ({"verdict": "inside"}, "verdict: 'inside', but its numbers say 'bit-equal'"),
    ({"seeds": []}, "its seeds are not trainings of the row"),
    ({"verdict": "perfect"}, "verdict: Input should be"),
]


@pytest.mark.parametrize(("change", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_a_re_run_that_does_not_hold_does_not_count(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    of = with_reproductions(tmp_path / "ada", reproduction(ada, **change))
    word, _, (problem,) = kd_status(of)
    assert word == CLAIMED
    assert problem.startswith("0.json does not count: ") and reason in problem
    assert any(reason in notice for notice in merge([of]).notices)


def test_a_re_run_of_other_records_or_with_invented_numbers_does_not_count(tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    good = reproduction(ada)
    hashes = dict.fromkeys(good["record_sha256"], "0" * 64)
    word, _, (problem,) = kd_status(with_reproductions(tmp_path / "ada", good | {"record_sha256": hashes}))
    assert word == CLAIMED and "made from another file than the record that is shown" in problem
    seed = good["seeds"][0]
    invented = [{**seed, "recorded_top1_pct": 1.0}]
    assert (
        "recorded_top1_pct is 1.0" in kd_status(with_reproductions(tmp_path / "ada", good | {"seeds": invented}))[2][0]
    )
    unequal = [{**seed, "reproduced_top1_pct": 1.0}]
    assert "called equal, but 1.0" in kd_status(with_reproductions(tmp_path / "ada", good | {"seeds": unequal}))[2][0]


def submitted(of: Entry, *authors: str) -> Entry:
    """The entry as if it had been packed by these authors."""

    claim = RowClaim(id="0" * 8, pair="", kind="student", method="", student="", n=0, test_top1_pct=None)
    made = Submission(name=of.label, authors=authors, study=of.study, protocol=1, kdbench=("0.1.0",), files={},
                      rows=(claim,))  # fmt: skip
    return replace(of, submission=made)


def test_authors_cannot_verify_themselves_nor_each_other_where_they_share_the_records(tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    made = with_reproductions(tmp_path / "ada", reproduction(ada, by="ada  LOVELACE"))
    assert kd_status(submitted(made, "Ada Lovelace"))[2] == ["0.json does not count: ada  LOVELACE is an author of ada"]
    byron = entry(tmp_path, "byron", records())
    shared = merge([submitted(made, "Grace Hopper"), submitted(byron, "Ada Lovelace")])
    assert {x.status.word for x in only(shared).lines} == {CLAIMED}
    alone = merge([submitted(made, "Grace Hopper")])
    assert sum(x.status.verified for x in only(alone).lines) == 1


# --- one row by lot ---------------------------------------------------------------------------------------------------


def test_the_row_that_is_trained_again_is_drawn_by_a_hash_and_within_the_limit(tmp_path: Path) -> None:
    ada = entry(tmp_path, "ada", records())
    kd, scratch = (next(row for row in ada.board.rows if row.method == name) for name in ("kd", "scratch"))
    assert (cost_s(ada, scratch), cost_s(ada, kd)) == (300.0, 600.0)  # kd needs the teacher too
    assert spot_check(ada, 299.0) is None
    assert spot_check(ada, 599.0) == scratch
    drawn = min((kd, scratch), key=lambda row: hashlib.sha256(f"{ada.digest} {row.id}".encode()).digest())
    assert spot_check(ada, 600.0) == drawn == spot_check(read(tmp_path / "ada"), 600.0)


def test_rows_of_plug_ins_and_checkpoints_are_never_trained_again_by_lot(tmp_path: Path) -> None:
    plug_in = {"plugins": {"method kd": {"file": "kd.py", "sha256": "0" * 64}}}
    ada = entry(tmp_path, "ada", records(environment=plug_in))
    assert spot_check(ada, 1e9) is None


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standings(tmp_path_factory: pytest.TempPathFactory) -> Standings:
    folder = tmp_path_factory.mktemp("standings")
    ada = entry(folder, "ada", records())
    entry(folder, "byron", records(-0.5))
    entry(folder, "cut", [*records(1.0, epochs=50), final("fitnet", 0, None, status="diverged", environment=TESTED)],
          asked(("scratch", "kd", "fitnet", "attention_transfer")))  # fmt: skip
    with_reproductions(folder / "ada", reproduction(ada))
    return merge(*read_all([folder / "ada", folder / "byron", folder / "cut"]))


def test_every_file_is_there_and_tells_the_same(standings: Standings) -> None:
    files = contents(standings)
    assert tuple(files) == NAMES
    rows = list(csv.DictReader(io.StringIO(files["standings.csv"].decode())))
    frame = pd.read_parquet(io.BytesIO(files["standings.parquet"]))
    said = json.loads(files["standings.json"])
    assert len(rows) == len(frame) == sum(len(table["rows"]) for table in said["tables"])
    assert [row["submission"] for row in rows] == list(frame["submission"])
    first = next(row for row in rows if row["rank"] == "1" and row["table"] == "1")
    assert (first["method"], first["submission"], first["status"]) == ("kd", "ada", "verified (bit-equal)")
    assert float(first["test_top1_pct"]) == frame.loc[frame["rank"] == 1, "test_top1_pct"].iloc[0] == 92.0
    line = next(line for line in files["standings.md"].decode().splitlines() if line.startswith("| 1 | kd | ada |"))
    assert [line.split(" | ")[i] for i in (4, 5, 7)] == ["3", "**92.00** [91.00, 93.00]", "verified (bit-equal)"]
    for name in ("standings.md", "standings.html", "standings.tex"):
        assert "final epochs: 100 against 50" in files[name].decode(), name


def test_failed_trainings_and_methods_without_a_row_are_in_every_table(standings: Standings) -> None:
    files = contents(standings)
    for name in ("standings.md", "standings.html", "standings.tex"):
        text = files[name].decode()
        assert "final 1 diverged" in text and "PARTIAL" in text, name
        assert "attention" in text, name


def test_the_page_runs_its_own_script_alone_and_asks_for_nothing(standings: Standings) -> None:

    page = contents(standings)["standings.html"].decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert " style=" not in page and not re.search(r"\son\w+=", page)
    assert re.findall(r'(?:src|href)="([^"#]*)"', page) == []


def test_names_are_escaped_in_every_format(tmp_path: Path) -> None:
    method = f"a_b%$#&{{}}~^\\ {EVIL}"

    def change(study: dict[str, Any]) -> None:
        asked((method,))(study)
        study["study"] = EVIL

    made = [
        replace(r, spec=replace(r.spec, slot={**r.spec.slot, "row": method})) for r in records(methods=("scratch",))
    ]
    files = contents(merge([read(write_study(tmp_path / "x", made, change))]))
    assert EVIL not in files["standings.html"].decode() and EVIL not in files["standings.md"].decode()
    tex = files["standings.tex"].decode()
    assert r"a\_b\%\$\#\&\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}script" in tex


def test_the_paper_table_has_balanced_environments_and_one_cell_for_each_column(standings: Standings) -> None:

    tex = contents(standings)["standings.tex"].decode()
    for name in set(re.findall(r"\\begin\{(\w+\*?)\}", tex)):
        assert tex.count(rf"\begin{{{name}}}") == tex.count(rf"\end{{{name}}}"), name
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", tex, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_nothing_at_all_is_still_a_page() -> None:
    page = contents(merge([]))["standings.html"].decode()
    assert "nothing to rank" in page
