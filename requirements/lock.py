"""Write every pin again, for Linux on x86-64: cpu.txt and lmms-eval.txt (the environment of `critic-r1 eval-policy`)
for Python 3.11, gpu.txt for Python 3.11 and 3.12. flash-attn.txt is written by hand.

Run by `make lock`. No registry's address is written into the files.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

COMMANDS = {
    "cpu.txt": "cpu.in --overrides cpu-overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28",
    "gpu.txt": "gpu.in --universal --python-version 3.11",
    "lmms-eval.txt": "lmms-eval.in --python-version 3.11 --python-platform x86_64-manylinux_2_28",
}


def main() -> None:
    for name, arguments in COMMANDS.items():
        command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--no-header", "--upgrade"]
        subprocess.run(
            [*command, "--no-emit-index-url", "--output-file", name, *arguments.split()], cwd=HERE, check=True
        )
        pins = sum("==" in line and not line.startswith(" ") for line in (HERE / name).read_text().splitlines())
        print(f"requirements/{name}: {pins} pins")


if __name__ == "__main__":
    main()
