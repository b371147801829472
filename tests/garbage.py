"""Contents that break the files of a run's folder."""

import json
from copy import deepcopy

DEEP = 100_000


GARBAGE = {
    "empty": b"", "number": b"3", "text": b'"x"', "null": b"null", "list": b"[]", "object": b"{}", "true": b"true",
    "deep list": b"[" * DEEP, "deep object": b'{"a":' * DEEP, "zeros": bytes(1000), "ones": b"\xff" * 1000,
    "not UTF-8": b'{"a": "\xe9"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "yaml": b"a: 1\n", "yaml list": b"- 1\n- 2\n",
    "yaml tag": b"a: !!python/object/apply:os.system [id]\n",
    "yaml bomb": b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9))
                                               for i in range(1, 10)),
    "tabs": b"\t\t\t", "control characters": b"\x1b[2J\x00\x07", "csv": b"a,b\n1,2\n",
    "csv with text": b"step,epoch,val/loss\nx,y,z\n", "csv with a long row": b"step,epoch\n1,1,1\n",
    "zip": b"PK\x03\x04",
    "wrong types": json.dumps({"status": 3, "best": 3, "test": [1], "seconds": "x", "overrides": {"a": 1},
                               "began": "x", "words": 3, "num_classes": -1, "mean": []}).encode(),
    "incomplete": json.dumps({"status": "finished", "overrides": [], "began": 1e300}).encode(),
    "no mode": json.dumps({"status": "finished", "best": {"metric": "val/acc", "value": 1.0}}).encode(),
    "null inside": json.dumps({"status": "interrupted", "seconds": None, "overrides": [], "packages": None}).encode(),
    "infinite": b"step,epoch\ninf,0\n", "no step": b"step,epoch\n,0\n", "half a step": b"step,epoch\n1,0.5\n",
    "huge numbers": b'{"overrides": [], "began": 1e999, "status": "finished", "best": {"value": 1e999}}',
    "wrong inside": json.dumps({"status": "finished", "best": {"metric": 1, "value": "x"}, "test": {"a": "b"},
                                "overrides": [1], "git": {"commit": 1}, "resumed": [1]}).encode(),
}  # fmt: skip


def changed(content, key, value=...):
    """A copy with another value at a key, whose parts `/` separates; without one: without the key."""
    copy = parent = deepcopy(content)
    *parents, last = (int(part) if part.isdecimal() else part for part in key.split("/"))
    for part in parents:
        parent = parent[part]
    parent[last] = value
    if value is ...:
        del parent[last]
    return copy
