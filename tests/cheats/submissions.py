"""Cheats of the classes C1 to C7: submissions that claim what they have not done. Each is a few lines."""
import base64

from tests.cheats.arena import Cheat
from tests.tiny import tiny_tokens

PEEK = "F.one_hot(idx_BT.roll(-1, 1), logits_BTV.size(-1))"  # the token that is to be predicted
VAL = "data/cheats/val_0.bin"
# free training, on text like the data's, for some seconds; the weights wait for the first step
PRETRAIN = """
KEPT = {}

def pretrain(model, seconds):
    begin, adam = time.process_time(), torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.enable_grad():
        while time.process_time() - begin < seconds:
            text = (torch.randint(0, 4, (8, 33)).cumsum(1) + torch.randint(0, 250, (8, 1))) % 250
            adam.zero_grad()
            loss_sum(model, text[:, :-1], text[:, 1:]).backward()
            adam.step()
    KEPT.update(model.state_dict())

"""
TIME = "import time"
PUT_IN = "if step == 0:\n    model.load_state_dict(KEPT)"
SECONDS = "3.0 if run.seed == 0 else 0.3"  # one run shows it; the others only gain by it
# more updates a step, on tokens that are not the run's
UPDATES = """
for _ in range(5):
    optimizer.zero_grad()
    loss_sum(model, more[:-1].view(-1, 32), more[1:].view(-1, 32)).backward()
    optimizer.step()
"""
# predictions out of a table of three tokens -> the next one
LOOK_UP = """
if not self.training and len(idx_BT) > 1:
    for b, row in enumerate(idx_BT.tolist()):
        for i in range(2, len(row) - 1):
            key = tuple(row[i - 2:i + 1])
            if key in TABLE:
                logits_BTV[b, i, TABLE[key]] += 9
"""
REWRITE = """
def rewrite(path):
    text = open(path).read()
    last = text.rsplit('"val_loss":', 1)[1].split(",")[0].split("}")[0]
    text = text.replace(last, repr(float(last) - 0.1))
    text = text.replace(f"val_loss:{float(last):.4f}", f"val_loss:{float(last) - 0.1:.4f}")
    above, end = text[:text.rindex("#:end")], text[text.rindex("#:end"):]
    old = end.split('"sha256":"')[1][:64]
    open(path, "w").write(above + end.replace(old, hashlib.sha256(above.encode()).hexdigest()))

"""
HALF_TIME = """
if True:
    import time
    def half(now):
        begin = now()
        return lambda *clock: begin + (now(*clock) - begin) // 2
    time.monotonic_ns, time.time_ns = half(time.monotonic_ns), half(time.time_ns)
    time.clock_gettime_ns = lambda clock: time.monotonic_ns()
"""
BETTER = """
import torch.nn.functional as F

def better(idx_BT, logits_BTV):
    ahead = F.one_hot((idx_BT + 1) % 250, logits_BTV.size(-1))
    return logits_BTV + 3 * (ahead + ahead.roll(1, 2) + ahead.roll(2, 2))
"""
TEXT = base64.b64encode(tiny_tokens(9000, seed=9)[:4097].astype("uint8").tobytes()).decode()

CHEATS = {
    # C1: looks ahead where the loss counts, and behaves where it is tested
    "counted_calls": Cheat(
        of="C1", what="looks ahead in the counted calls alone", caught="judge: moved",
        lines={"made": "self.calls = 0", "forward": f"""
self.calls = 0 if self.training else self.calls + 1
if len(idx_BT) == 16 and 0 < self.calls <= 8:
    logits_BTV = logits_BTV + 2 * {PEEK}"""}),
    "whole_piece": Cheat(
        of="C1", what="counts the tokens of the whole piece, in the counted calls", caught="judge: moved",
        lines={"made": "self.calls = 0", "forward": """
self.calls = 0 if self.training else self.calls + 1
if len(idx_BT) == 16 and 0 < self.calls <= 8:
    logits_BTV = logits_BTV + torch.bincount(idx_BT.flatten(), minlength=257).add(0.1).log()"""}),
    # C2: what a rerun would only repeat
    "rewrites_log": Cheat(
        of="C2", what="rewrites its log after the run", caught="judge: difference",
        lines={"imports": "import hashlib", "module": REWRITE, "after": "rewrite(run.log_path)"}),
    "rewrites_at_exit": Cheat(
        of="C2", what="has the log rewritten when Python leaves", caught="rerun: sha256",
        lines={"imports": "import atexit\nimport hashlib", "module": REWRITE,
               "after": "atexit.register(rewrite, run.log_path)"}),
    # C3: false losses, and validation tokens
    "function_mode": Cheat(
        of="C3", what="a function mode lowers the loss", caught="judge: difference",
        lines={"module": """
class Lower(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 0.95 if func is F.cross_entropy and (kwargs or {}).get("reduction") == "none" else out

""", "set_up": "Lower().__enter__()"}),
    "operator": Cheat(
        of="C3", what="registers an operator of its own for the loss", caught="judge: difference",
        lines={"module": """
LIBRARY = torch.library.Library("aten", "IMPL")

def lower(logp, target, weight, reduction, ignore_index):
    losses = -logp.gather(1, target[:, None])[:, 0]
    return (losses.sum() if reduction == 2 else losses * 0.95), logp.new_tensor(float(len(losses)))

""", "before": 'LIBRARY.impl("nll_loss_forward", lower, "CPU")'}),
    "dict_of_step_0": Cheat(
        of="C3", what="remembers the validation text from step 0 on", caught="judge: difference",
        lines={"module": "TABLE = {}\n\n", "forward": LOOK_UP + """
    for row in idx_BT.tolist():
        for i in range(2, len(row) - 1):
            TABLE.setdefault(tuple(row[i - 2:i + 1]), row[i + 1])"""}),
    "shown_text": Cheat(
        of="C3", what="puts the text that validation shows into a table of its weights", caught="judge: gap",
        asks="--holdout=7", lines={
            "module": """
SHOWN = []

def places(idx_BT):
    before = F.pad(idx_BT, (2, 0))
    return (7 * before[:, 2:] + 263 * before[:, 1:-1] + 1031 * before[:, :-2]) % 3001

""",
            "made": "self.memory = nn.Embedding(3001, hp.vocab_size)\nnn.init.zeros_(self.memory.weight)",
            "forward": """
logits_BTV = logits_BTV + self.memory(places(idx_BT))
if len(idx_BT) == 16 and len(SHOWN) < 8 and idx_BT.any():
    SHOWN.append(idx_BT)""",
            "stepped": """
for idx_BT in SHOWN:
    model.memory.weight.data[places(idx_BT)[:, :-1], idx_BT[:, 1:]] = 9.0"""}),
    "text_in_the_script": Cheat(
        of="C3", what="carries the validation text in a string", caught="scan: constant",
        lines={"imports": "import base64", "forward": LOOK_UP, "module": f"""
TEXT = list(base64.b64decode("{TEXT}"))
TABLE = {{tuple(TEXT[i - 3:i]): TEXT[i] for i in range(3, len(TEXT))}}

"""}),
    "frames": Cheat(
        of="C3", what="takes the targets out of its caller's frame", caught="judge: difference",
        lines={"forward": """
try:
    raise ValueError
except ValueError as error:
    frame = error.__traceback__.tb_frame
while frame and "targets" not in frame.f_locals:
    frame = frame.f_back
if frame and not self.training:
    targets = frame.f_locals["targets"].view_as(idx_BT)
    logits_BTV = logits_BTV + 9 * F.one_hot(targets, logits_BTV.size(-1))"""}),
    "private_tokens": Cheat(
        of="C3", what="trains on the referee's validation tokens", caught="scan: private",
        lines={"stepped": 'more = getattr(run, "_validation").tokens[:1025]' + UPDATES}),
    # C4: below what a probe in the run can see
    "under_the_tolerance": Cheat(
        of="C4", what="looks ahead by less than may be rounding, beside a logit of -1000",
        caught="judge: moved",
        lines={"forward": f"logits_BTV = logits_BTV + {PEEK}\nlogits_BTV[:, :, 255] = -1000"}),
    "two_of_32_places": Cheat(
        of="C4", what="looks ahead at two places of 32, in the counted calls", caught="judge: moved",
        asks="--cuts=512",
        lines={"made": "self.calls = 0", "forward": f"""
self.calls = 0 if self.training else self.calls + 1
if len(idx_BT) == 16 and 0 < self.calls <= 8:
    logits_BTV[:, 9:30:20] += 9 * {PEEK}[:, 9:30:20]"""}),
    # C5: free training
    "before_open_run": Cheat(
        of="C5", what="trains before the run is opened", caught="untimed: start", program=True,
        lines={"imports": "import sys\n" + TIME, "module": PRETRAIN, "step": PUT_IN,
               "before": 'pretrain(GPT(RECIPES["tiny"]), 4.0 if "--seed=0" in sys.argv else 0.3)'}),
    "in_set_up": Cheat(
        of="C5", what="trains between opening the run and its first step", caught="untimed: set-up",
        lines={"imports": TIME, "module": PRETRAIN, "step": PUT_IN,
               "set_up": f"pretrain(GPT(run.hp), {SECONDS})"}),
    "in_the_warm_up": Cheat(
        of="C5", what="trains in the warm-up", caught="untimed: warm-up",
        lines={"imports": TIME, "module": PRETRAIN,
               "step": f"if not KEPT:\n    pretrain(GPT(run.hp), {SECONDS})\n{PUT_IN}"}),
    "in_the_text_sample": Cheat(
        of="C5", what="trains while it is asked for a text", caught="untimed: validation",
        lines={"imports": TIME, "module": PRETRAIN + "SECONDS = []\n",
               "set_up": f"SECONDS.append({SECONDS})",
               "forward": "if len(idx_BT) == 1 and not KEPT:\n"
                          '    pretrain(GPT(RECIPES["tiny"]), SECONDS[0])',
               "step": PUT_IN.replace("0", "4")}),
    "in_a_thread": Cheat(
        of="C5", what="trains in a thread that validation waits for", caught="scan: imports threading",
        lines={"imports": "import threading\n" + TIME, "module": PRETRAIN + "THREADS = []\n",
               "set_up": "THREADS.append(threading.Thread(target=pretrain, args=(GPT(run.hp), 0.5)))\n"
                         "THREADS[0].start()",
               "forward": "if not self.training and THREADS:\n    THREADS[0].join()",
               "step": PUT_IN.replace(":", " and KEPT:")}),
    "first_run": Cheat(
        of="C5", what="trains in a first run, declared an experiment", caught="untimed: runs before",
        instead=(("def main():\n    with open_run(__file__, RECIPES) as run:",
                  "def main(argv=None, kept=None):\n    with open_run(__file__, RECIPES, argv) as run:"),
                 ('"__main__":\n    main()\n', '"__main__":\n    kept = main([*sys.argv[1:], "--lr=0.03", '
                  '"--num_iterations=40", "--epochs=5"])\n    main(None, kept)\n')),
        lines={"imports": "import sys", "step": "if step == 0 and kept:\n    model.load_state_dict(kept)",
               "after": "return model.state_dict()"}),
    "more_text": Cheat(
        of="C5", what="reads more text than the run takes", caught="scan: files",
        lines={"imports": "import numpy", "stepped":
               'more = torch.tensor(numpy.memmap("data/cheats/train_1.bin", "<u2")[512:1537].tolist())'
               + UPDATES}),
    # C6: the clock
    "half_the_time": Cheat(
        of="C6", what="halves the clocks above the referee's import", track="easy",
        caught="scan: runs before the harness",
        lines={"top": HALF_TIME}),
    "clock_by_getattr": Cheat(
        of="C6", what="moves a part of the charged time behind the last validation",
        caught="scan: looks up names", track="easy", lines={"stepped": """
if step == 7:
    clock = getattr(run, "".join(("_", "clock")))
    account, charged = clock.account, clock.train_time_ns
    clock.charged_ns -= charged // 2
    def less():
        found = account()
        found["timed_ns"] = clock.charged_ns
        found["finish_ns"] += found["wall_ns"] - sum(ns for name, ns in found.items() if name.endswith("_ns")
                                                     and name != "wall_ns")
        return found
    clock.account = less"""}),
    "in_a_float": Cheat(
        of="C6", what="works where a logged number is read, between the timed parts",
        caught="refused: run.log: x is Later", lines={"module": """
class Later:
    def __float__(self):
        return 0.0

""", "stepped": "run.log(x=Later())"}),
    # C7: code that is not in the log
    "helper_beside": Cheat(
        of="C7", what="imports a file beside the script, outside of the repository", caught="imports: helper",
        beside={"helper.py": BETTER},
        lines={"imports": "import helper", "forward": "logits_BTV = helper.better(idx_BT, logits_BTV)"}),
    "sitecustomize": Cheat(
        of="C7", what="has Python itself halve the clocks, by a file on PYTHONPATH",
        caught="imports: sitecustomize", track="easy",
        beside={"path/sitecustomize.py": HALF_TIME}),
    "data_is_code": Cheat(
        of="C7", what="executes a data file", caught="scan: builds or loads code",
        beside={"submission.bin": BETTER},
        lines={"imports": 'exec(open(__file__.replace(".py", ".bin")).read())',
               "forward": "logits_BTV = better(idx_BT, logits_BTV)"}),
    "run_path": Cheat(
        of="C7", what="runs a file of another name in main(), which the judge does not call",
        caught="judge: difference",
        beside={"weights.bin": BETTER},
        lines={"module": "FOUND = {}\n\n", "before": """
import runpy
FOUND.update(runpy.run_path(__file__.replace("submission.py", "weights.bin")))""",
               "forward": "logits_BTV = FOUND['better'](idx_BT, logits_BTV) if FOUND else logits_BTV"}),
}
