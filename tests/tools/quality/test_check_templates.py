"""Facts and faults of a folder of templates: the small ones of this project's tests, or real ones where there are any."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cahl_pl.prompts import PromptBuilder
from tests.prompts.families import FAMILIES
from tests.prompts.native_families import FAMILIES as NATIVE
from tests.prompts.native_families import OWN
from tools.quality import check_templates
from tools.quality.check_templates import main


def run(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_templates", str(folder)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code, capsys.readouterr().out


@pytest.fixture
def folder(tmp_path):
    for name in ("Qwen3", "gpt-oss"):
        (tmp_path / f"{name}.jinja").write_text(FAMILIES[name].template, encoding="utf-8")
    llama = FAMILIES["Llama 3"]
    tokens = {str(i): {"content": token, "special": True} for i, token in enumerate(llama.special)}
    config = {"added_tokens_decoder": tokens, "bos_token": {"content": llama.bos}, "eos_token": "<|eot_id|>"}
    templates = [{"name": "default", "template": llama.template}, {"name": "broken", "template": "{% for"}]
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": templates}))
    return tmp_path


def test_a_line_a_template(folder, monkeypatch, capsys):
    code, out = run(folder, monkeypatch, capsys)
    lines = out.splitlines()
    assert (code, lines[-1]) == (0, "4 templates, 0 of them with faults")
    qwen, oss, llama, broken = lines[:-1]
    assert qwen.startswith("Qwen3.jinja: system own, end <|im_end|>, bos none, opened '', lead ")
    assert qwen.endswith("marks <think>, old thoughts dropped")
    assert "end <|return|>" in oss
    assert "marks <|channel|>analysis<|message|>" in oss
    assert llama.startswith("llama/tokenizer_config.json default: system own, end <|eot_id|>, bos 1,")
    assert broken.startswith("llama/tokenizer_config.json broken: refused: the chat template of")


def test_ends_of_every_form_are_known_and_none_is_said(tmp_path, monkeypatch, capsys):
    ends = ("[e~[", "<seed:eos>", "<SPECIAL_12>", "[|endofturn|]", "<not a token>")
    for i, end in enumerate(ends):
        template = f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}{end}{{% endfor %}}"
        (tmp_path / f"{i}.jinja").write_text(template + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    _, out = run(tmp_path, monkeypatch, capsys)
    found = [line.partition("end ")[2].partition(",")[0] for line in out.splitlines()[:-1] if "system" in line]
    assert found == [*ends[:-1], "</s> (none in the template)"]


def test_what_is_wrong_is_said_and_is_the_exit_status(folder, monkeypatch, capsys):
    monkeypatch.setattr(PromptBuilder, "completion", lambda self, text: self._data(text))
    code, out = run(folder, monkeypatch, capsys)
    assert code == 1
    assert out.count("WRONG: a gold output does not end once") == 3
    assert out.endswith("4 templates, 3 of them with faults\n")


def test_calls_in_the_own_form_of_families(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.jinja").write_text(NATIVE["Qwen2.5, Hermes"].template)
    (tmp_path / "b.jinja").write_text(OWN)
    (tmp_path / "c.jinja").write_text(FAMILIES["Qwen3"].template)  # has no tools
    monkeypatch.setattr(sys, "argv", ["check_templates", str(tmp_path), "--native"])
    main()
    known, unknown, count = capsys.readouterr().out.splitlines()
    assert known.startswith('a.jinja: \'<tool_call>\\n{"name": "add", "arguments": {"a": 2}}')
    assert "b.jinja: refused: " in unknown
    assert "in a form that is not read here" in unknown
    assert count == "2 templates with tools, 1 of them with calls that are read"


def test_real_templates(monkeypatch, capsys):
    """`$CAHL_TEMPLATES` names a folder of them, such as trl/chat_templates of TRL's repository."""
    folder = os.environ.get("CAHL_TEMPLATES", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real templates: set CAHL_TEMPLATES to a folder of them")
    assert len(list(check_templates.templates_in(Path(folder)))) > 0
    code, out = run(folder, monkeypatch, capsys)
    assert code == 0, out
