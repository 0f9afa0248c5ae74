"""One process of a device test: some verbs of the command line, one after another, perhaps on the emulated device.

python child.py EMULATOR DEVICES COMMANDS      # EMULATOR: a folder, or - for none; COMMANDS: a JSON list of lists
"""

from __future__ import annotations

import json
import os
import sys


def give_loading_info() -> None:
    """Let `output_loading_info` through the emulator's loading, which expects a model alone from transformers."""
    from transformers import AutoModelForCausalLM, PreTrainedModel

    emulated, own = AutoModelForCausalLM.from_pretrained.__func__, PreTrainedModel.from_pretrained.__func__
    found = {}

    def inner(cls, *arguments, **options):
        model, found["info"] = own(cls, *arguments, **options | {"output_loading_info": True})
        return model

    def outer(cls, *arguments, output_loading_info=False, **options):
        model = emulated(cls, *arguments, **options)
        return (model, found["info"]) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(inner)
    AutoModelForCausalLM.from_pretrained = classmethod(outer)


if __name__ == "__main__":
    emulator, devices, commands = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    sys.argv = ["cahl-pl"]
    if emulator != "-":
        sys.path.insert(0, emulator)
        import fakecuda  # before torch

        fakecuda.install(devices)
        give_loading_info()
    from cahl_pl.commands import console

    for command in commands:
        if command[0] == "export" and os.environ.get("LOCAL_RANK", "0") != "0":
            continue  # one process writes the adapters
        print("$", *command, flush=True)
        console(command)
