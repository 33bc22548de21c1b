"""The fault matrix: faults of a run, and tfkit's promises for them. A test of a row has the row's id in its name: test_f03_...

docs/faults.md is this table with the tests' results; `make faults` writes it.
"""

import re
from typing import NamedTuple


class Row(NamedTuple):
    """`exit`: the codes with which a run may end. `not_here`: why no test can show it on this machine."""

    fault: str
    promise: str
    exit: str
    not_here: str = ""


SAME = "*same*: the SHA-256 of weights, optimizer state and the exact fields of metrics.jsonl are those of the run that was never stopped"

TABLE = """
F01 || SIGKILL at each write, rename and fsync of a save || the next start takes the newest complete checkpoint, *same* || 137, 0
F02 || SIGKILL at any time: step, accumulation, evaluation, tokenizing, training the tokenizer, sampling responses, mixing in of text || as
    F01 || 137, 0
F03 || SIGTERM inside a step || the unfinished step is dropped, and the last complete one is saved; *same* after resuming || 143, 0
F04 || SIGTERM while tokenizing, compiling, evaluating, generating || honoured within 5 s; says whether something was saved || 143
F05 || a second SIGTERM or SIGINT during a save || the save is completed or dropped entirely; the old checkpoint is intact || 143, 130
F06 || SIGINT in pretrain, evaluate, generate || state saved, or valid JSON lines so far; no traceback || 130
F07 || `tfkit generate ... | head -1`; stdout closed || tfkit stops quietly || 0
F08 || SIGHUP: the terminal was closed || as SIGTERM || 129
F09 || the newest weights are cut off || a warning names the file, the checkpoint before is taken; --exact refuses || 0, 4
F10 || one bit flipped in weights, optimizer state, state.json, manifest || found before training; as F09 || 0, 4
F11 || a missing, empty or additional file; no manifest || not a checkpoint; `tfkit verify` says why || 0, 4
F12 || a safetensors header of 2^63 bytes, overlapping offsets, a wrong type, 100 MB of JSON || refused at once, in little memory || 4
F13 || a .pt with code in it; a .safetensors that is a pickle or zip || refused; the code is not executed || 4
F14 || wrong shapes, missing names, another family's checkpoint || a list of the differences; nothing is loaded partially || 4
F15 || the disk fills after k bytes of a save || no trace of it is left, and the old checkpoint is intact; deletable files are deleted, and
    the save is tried once more || 5
F16 || a full or failing disk for logs, emissions.csv || one warning, training continues || 0
F17 || a run folder that is read-only, a file, or below a mount that is gone || found before data or model are touched || 5
F18 || the planned checkpoints do not fit the disk || refused at the start, with numbers; --force continues || 5, 0
F19 || a temporary EIO or ESTALE of rename or fsync || a few tries with pauses, then as F15 || 0, 5
F20 || a loss that is not a number at step k || nothing is updated; a replay file is written; the last good checkpoint stays || 6
F21 || an infinite gradient; a jump of the loss; with skipping enabled || the step is skipped and counted; the run stops after n || 0, 6
F22 || an evaluation that is not a number || never the best checkpoint || 0
F23 || out of memory in a step, an evaluation, a generation || smaller micro-batches, the same step; else advice || 0, 5
F24 || CodeCarbon raises in import, constructor, start, samples, stop, or gives NaN, None, negative || *same*; the failure is reported || 0
F25 || CodeCarbon hangs for a minute || the run waits for 3 s at most, and continues || 0
F26 || CodeCarbon sets signal handlers, or exits from a thread || tfkit's own still work || 143
F27 || emissions.csv has another header, is empty, locked, or has eight writers || no row lost or torn; the old file is kept || 0
F28 || two nodes, stopped and resumed three times; a node whose meter fails || one total for the run; the silent node is named || 143, 0
F29 || TensorBoard raises, hangs, fills its queue || dropped points are counted, the run continues || 0
F30 || every socket is blocked || local work succeeds; no host name is looked up || 0
F31 || a remote source answers 404 or 503, slowly, incompletely, or wrongly || it is tried again, then there is a clear message; the cache
    stays clean || 3, 4
F32 || recipes: unknown key, wrong type, key twice, tab, BOM, 10 MB, alias bomb, tags, .nan, 1e-4, no || all errors are listed, with their
    places || 2
F33 || thousands of random recipes || a plan or exit 2 || 0, 2
F34 || paths that leave the run folder: names, links, manifests || refused; nothing is written outside || 2, 4
F35 || chat templates that reach for code, loop for ever, write a gigabyte || an error within 2 s; nothing is executed || 4
F36 || data: empty, one row, bad UTF-8, NUL, CRLF, BOM, a 100 MB line, a cut line, damage || file, row and remedy; or skipped || 3, 0
F37 || no targets, no rows, or a token id beyond the vocabulary || refused before step 1, with numbers || 2, 3, 4
F38 || data changed between save and resume || refused, with the fingerprints || 3
F39 || recipe changed between save and resume || allowed changes take effect, others are refused with the difference || 2, 0
F40 || resumed once, twice, three times; at each step of a run of 50 steps || *same* || 0
F41 || two ranks, then one, then two or four; random kills between || the same global batches; with one or two ranks *same* || 0
F42 || a data worker is killed || a named error || 5 || there are no data workers: rows are gathered from the memory map
F43 || a rank exits, hangs, or is slow || the others stop in time || 9, 0
F44 || two runs in one folder; the lock of a dead process || the second is refused, with the owner; a stale lock is taken over || 5, 0
F45 || a save is due, or a signal comes, while one is written to a slow disk || saves happen in order, and none is torn || 0, 143
F46 || the clock is set back an hour; no time zone data || durations stay monotonic || 0
F47 || no HOME, a read-only one, LC_ALL=C, COLUMNS=20, NO_COLOR, no terminal || works; plain ASCII || 0
F48 || few file descriptors; little memory || works, or a clean refusal with advice || 0, 5
F49 || thousands of mutated checkpoints, tokenizers, data files || exit 3 or 4; bounded time and memory || 0, 3, 4
F50 || a budget of carbon, energy or time is reached within a step || the step is completed and saved; resuming is refused until the budget
    is larger, then *same* || 7, 2, 0
F51 || --fail-if true, false, unknown metric, NaN || the condition decides; NaN fails || 8, 0, 2
F52 || an export: full disk, stopped, predictions that differ by too much, tied weights, special tokens missing || no half export; refused
    with the difference || 5, 143, 130, 137, 8, 0, 4
F53 || the cache is deleted at random moments while data are prepared || it is built again, *same*; or TFKIT_CACHE is named || 0, 5
"""
MATRIX = {name: Row(*cells) for name, *cells in (" ".join(row.split()).split(" || ") for row in re.split(r"\n(?=F)", TABLE.strip()))}
