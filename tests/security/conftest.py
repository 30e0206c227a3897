"""One real study, run by the command line in a process of its own, with secrets wherever a user may put them."""

from __future__ import annotations

import pytest
from secret_run import SECRETS, Ran, closed_port, run_cli
from untrusted import STUDY


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study that ran to its end while its MLflow server did not answer."""
    folder = tmp_path_factory.mktemp("secrets")
    address = f"http://me:{SECRETS['address']}@127.0.0.1:{closed_port()}"
    text = STUDY.replace('mlflow: "off"', f'mlflow: "{address}"')
    (folder / "small.yaml").write_text(f"# {address}\n{text}")
    return run_cli(folder, "run", "small.yaml")
