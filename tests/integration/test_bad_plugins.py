"""A study with many methods that misbehave: each is named and fails, and the others come out as without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import facts, start, write_study

PLUGIN = Path(__file__).with_name("bad_methods.py")
NAMED = "plug-in bad_methods.py"
# What the record of each method says. `*` is a method that fails for its searched weights, not for the published one.
SAYS = {
    "raises": "in raises(): RuntimeError: boom",
    "exits": "in exits(): SystemExit(3), which would end the whole process",
    "raises_interrupt": "in raises_interrupt(): KeyboardInterrupt(), which would end the whole process",
    "returns_a_float": "loss() returned 'ce': float. Allowed: a dictionary of names to a tensor each.",
    "returns_a_vector": "loss() must return {name: scalar tensor}, but got ce of shape (50,). Take mean()",
    "returns_none_of_it": "loss() returned list. Allowed: a dictionary of names to a tensor each.",
    "forgets_the_student": "loss() returned ce, and nothing that is trained has a part in it.",
    "halves_the_teacher": "changed the weights of the teacher",
    "trains_the_teacher": "changed the mode of the teacher",
    "shifts_statistics": "changed the weights of the teacher",
    "hooks_the_teacher": "left hooks on the teacher",
    "hooks_the_student": "left hooks on the student",
    "hooks_everything": "changed torch's global forward hooks",
    "scales_outputs": "loss() changed the student's logits in place.",
    "shuffles_labels": "loss() changed the labels in place. Allowed: new tensors",
    "seeds_torch": "loss() set the seed of torch's global generator. Allowed: draws in sample()",
    "seeds_numpy": "loss() draws from the global generator of random or numpy.random, or seeds it",
    "draws_at_random": "loss() draws from the global generator of random or numpy.random, or seeds it",
    "sets_dtype": "changed torch's default dtype (from torch.float32 to torch.float64), which holds for the whole",
    "sets_threads": "changed torch's number of threads (from 1 to ",
    "sets_deterministic": "changed torch's deterministic mode (from 0 to 2)",
    "stops_gradients": "whether torch records gradients (from True to False)",
    "moves_away": "changed the working directory (from ",
    "breaks_in_its_constructor": "in __post_init__(): ValueError: no weight of ",
    "exits_in_its_constructor": "in __post_init__(): SystemExit: bye",
    "breaks_in_build": "in build(): ",
    "builds_no_module": "build() returned 'regressor': a tensor of shape (3,). Allowed: a dictionary of names to a mod",
    "changes_inputs": "inputs() changed the images in place.",
}
ON_SEARCHED_WEIGHTS = ("breaks_in_its_constructor", "exits_in_its_constructor")


def small(folder: Path, names: tuple[str, ...] = (), **replace: str) -> Path:
    """The small study, with further methods before its own."""
    study = write_study(folder, **replace)
    text = study.read_text().replace("methods:\n", "methods:\n" + "".join(f"  {name}:\n" for name in names))
    study.write_text(text.replace("final: {select: best, seeds: 2}", "final: {select: best, seeds: 1}"))
    return study


def run(study: Path, *more: str) -> str:
    process = start("run", str(study), "--results", str(study.parent), *more, cwd=study.parent)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return str(output)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out of the small study without any plug-in."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(small(folder))
    return facts(folder / "small")


def of_methods(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: record for key, record in found.items() if record["spec"]["method"]["name"] in names}


def errors(folder: Path, name: str) -> list[str | None]:
    records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return [r["error"] for r in records if r["spec"]["method"]["name"] == name and r["spec"]["phase"] == "search"]


@pytest.mark.slow
def test_every_misbehaviour_is_named_and_the_other_methods_come_out_bit_equal(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    names = (*SAYS, "is_not_a_number", "prints_megabytes")
    output = run(small(tmp_path, names), "--plugin", str(PLUGIN))
    folder = tmp_path / "small"
    for name, text in SAYS.items():
        said = errors(folder, name)
        assert len(said) == 2, name
        told = [error for error in said if error is not None]
        assert len(told) == (1 if name in ON_SEARCHED_WEIGHTS else 2), (name, said)
        for error in told:
            assert NAMED in error and text in error, (name, error)
    found = facts(folder)
    assert {r["status"] for r in of_methods(found, ("is_not_a_number",)).values()} == {"diverged"}
    assert {r["status"] for r in of_methods(found, ("prints_megabytes",)).values()} == {"finished"}
    assert len(output) < 1_000_000, "what methods print is cut"
    assert "changed torch's default dtype (from torch.float32 to torch.float64) at import, which is put back" in output
    assert of_methods(found, ("none", "scratch", "kd", "finetune")) == undisturbed
    table = (folder / "leaderboard.csv").read_text()
    assert all(name in table for name in names), "failures are rows"


@pytest.mark.slow
@pytest.mark.ray
def test_the_same_holds_on_ray(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    names = ("exits", "raises_interrupt", "halves_the_teacher", "sets_dtype", "moves_away", "seeds_torch")
    run(small(tmp_path, names, executor="ray"), "--plugin", str(PLUGIN))
    for name in names:
        said = errors(tmp_path / "small", name)
        assert len(said) == 2, name
        assert all(error is not None and NAMED in error and SAYS[name] in error for error in said), said
    assert of_methods(facts(tmp_path / "small"), ("none", "scratch", "kd", "finetune")) == undisturbed


@pytest.mark.slow
def test_a_method_that_eats_memory_does_not_end_the_study(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    study = small(tmp_path, ("eats_memory",))
    process = start(
        "run", str(study), "--results", str(tmp_path), "--plugin", str(PLUGIN), cwd=tmp_path, KDBENCH_BACKOFF_S="0"
    )
    output, _ = process.communicate(timeout=280)
    found = facts(tmp_path / "small")
    assert of_methods(found, ("none", "scratch", "kd", "finetune")) == undisturbed, output
    assert {r["status"] for r in of_methods(found, ("eats_memory",)).values()} <= {"failed", "lost"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no')", "broken.py:1: RuntimeError: no. Mend the plug-in, or leave it out."),
        ("import sys; sys.exit(0)", "broken.py:1: SystemExit: 0. Mend the plug-in, or leave it out."),
        ("raise KeyboardInterrupt", "broken.py:1: KeyboardInterrupt"),
    ],
)
def test_a_plug_in_that_breaks_at_import_stops_the_run_before_it_begins(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    study = small(tmp_path)
    process = start("run", str(study), "--results", str(tmp_path), "--plugin", "broken.py", cwd=tmp_path)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2, output
    assert says in " ".join(output.split()), output
    assert not (tmp_path / "small").exists()
