"""What a run was made with."""

import json
from typing import Any

import pytest

from autocompress.core.errors import RunFolderError
from autocompress.store.manifest import check_same_inputs, make_manifest


def manifest(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"model_digest": "m", "data_digest": "d", "seed": 3, "host": {"cpu": "abacus"}}
    return make_manifest(**{**given, **changes}, command=["autocompress", "search"], extra={"target": "local"})


def test_a_manifest_is_json_and_names_versions_and_hashes() -> None:
    made = manifest()
    assert json.loads(json.dumps(made)) == made
    assert made["packages"]["numpy"]
    assert (made["seed"], made["model_digest"], made["host"], made["target"]) == (3, "m", {"cpu": "abacus"}, "local")


def test_the_same_inputs_pass_and_a_first_run_has_nothing_to_compare() -> None:
    check_same_inputs(manifest(), manifest(seed=4))
    check_same_inputs(None, manifest())


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_changed_model_or_data_set_is_refused(key: str) -> None:
    with pytest.raises(RunFolderError, match=f"The {key} changed .*now new"):
        check_same_inputs(manifest(), manifest(**{f"{key}_digest": "new"}))
