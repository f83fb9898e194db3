"""A short text that stands for a very long one is refused in one line, before it unfolds."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.declare.space import load_space
from raybench.errors import UserError

SPACE = """setting: {model: lenet, dataset: digits, batch_size: 32}
arms: {ddp: {engine: torch}, zero1: {engine: deepspeed}}
"""


def refused(tmp_path: Path, text: str, **overrides: str) -> str:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_space(str(file), {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def test_aliases_that_stand_for_a_billion_values(tmp_path: Path) -> None:
    assert "space.yaml:4: not valid YAML: aliases (*name) expand to more than 5,000 values" in refused(
        tmp_path, bomb(10)
    )


def test_an_alias_may_repeat_a_value(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.replace("{engine: torch}", "&a {engine: torch}").replace("{engine: deepspeed}", "*a"))
    assert load_space(str(file))[1].arms["zero1"].engine == "torch"


def test_an_alias_inside_of_itself(tmp_path: Path) -> None:
    assert "space.yaml:3: not valid YAML: an alias" in refused(tmp_path, SPACE + "differs: &d [*d]")


def test_a_bomb_in_an_override(tmp_path: Path) -> None:
    value = "{" + bomb(7).strip().replace("\n", ", ") + "}"
    assert "aliases (*name) expand to more than" in refused(tmp_path, SPACE, setting__model_options=value)


def test_brackets_without_end(tmp_path: Path) -> None:
    assert refused(tmp_path, "[" * 5000).endswith("space.yaml: nested too deeply for a space")
    assert "cannot be merged into" in refused(tmp_path, SPACE, differs="[" * 5000)


def test_a_file_beyond_any_space(tmp_path: Path) -> None:
    assert "a space has 1,000,000 at most" in refused(tmp_path, SPACE + "# " + "x" * 2_000_000)


def test_doubling_by_interpolation(tmp_path: Path) -> None:
    doubling = "".join(f"  x{n}: '${{setting.x{n - 1}}}${{setting.x{n - 1}}}'\n" for n in range(1, 40))
    message = refused(tmp_path, f"setting:\n  x0: aaaaaaaaaa\n{doubling}")
    assert "interpolations expand to more than 1,000,000 characters" in message
    assert "space.yaml:" in message


def test_interpolation_in_a_circle(tmp_path: Path) -> None:
    message = refused(tmp_path, SPACE + "space_a: ${space_b}\nspace_b: ${space_a}\n")
    assert "space.yaml:3: space_a: circular interpolation: space_b -> space_a -> space_b" in message


def test_interpolation_takes_another_key(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE + "repeats: ${setting.batch_size}\n")
    assert load_space(str(file))[1].repeats == 32


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${oc.env:HOME,x}", "${${baseline}}", "${.model}"])
def test_the_environment_does_not_get_in(tmp_path: Path, value: str) -> None:
    message = refused(tmp_path, SPACE + f"baseline: '{value}'\n")
    assert "space.yaml:3: baseline:" in message
    assert "the only valid interpolation is ${key.of.this.space}" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [("1" + "0" * 5000, "cannot be read as int"), ("2001-99-99", "cannot be read as timestamp")],
)
def test_a_value_that_python_refuses(tmp_path: Path, value: str, words: str) -> None:
    message = refused(tmp_path, SPACE + f"seed: {value}\n")
    assert "space.yaml:3: not valid YAML" in message
    assert words in message
