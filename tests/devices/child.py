"""One process of a device test: some verbs of the command line, one after another, perhaps on the emulated device.

python child.py EMULATOR DEVICES COMMANDS      # EMULATOR: a folder, or - for none; COMMANDS: a JSON list of lists
"""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":
    emulator, devices, commands = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    sys.argv = ["cahl-pl"]
    if emulator != "-":
        sys.path.insert(0, emulator)
        import fakecuda  # before torch

        fakecuda.install(devices)
    from cahl_pl.commands import console

    for command in commands:
        if command[0] == "export" and os.environ.get("LOCAL_RANK", "0") != "0":
            continue  # one process writes the adapters
        print("$", *command, flush=True)
        console(command)
