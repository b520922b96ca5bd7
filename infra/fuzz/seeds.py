"""Write the files that fuzzing a target begins with, and the words of its format: ``seeds.py TARGET FOLDER WORDS``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from every_target import target_of

target, folder, words = target_of(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
for data in target.seeds():
    (folder / f"seed-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words), encoding="ascii")
