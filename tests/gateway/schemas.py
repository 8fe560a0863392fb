"""A server whose tool has a schema that is an attack: schemas.py MODE [WORD]. Raw JSON-RPC over stdin and stdout."""

import json
import sys

MODE, WORD = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""


def schema() -> str:
    """JSON, since some of them are none that a program would write."""
    if MODE == "http":
        return json.dumps({"type": "object", "properties": {"text": {"$ref": f"http://127.0.0.1:{WORD}/schema.json"}}})
    if MODE == "file":
        return json.dumps({"type": "object", "properties": {"text": {"$ref": "file:///etc/passwd"}}})
    if MODE == "pattern":
        return json.dumps({"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}})
    if MODE == "automaton":
        return json.dumps({"type": "object", "properties": {"text": {"type": "string", "pattern": "(a{900}){900}"}}})
    if MODE == "large":
        return json.dumps({"type": "object", "description": "x" * (10 << 20)})
    if MODE == "deep":
        return '{"type":"object","properties":' + '{"a":' * 1000 + "{}" + "}" * 1000 + "}"
    if MODE == "twice":
        return '{"type":"object","type":"array"}'
    if MODE == "number":
        return '{"type":"object","properties":{"n":{"maximum":1e999}}}'
    if MODE == "surrogate":
        return '{"type":"object","properties":{"\\ud83d":{}}}'
    return json.dumps({"type": "object"})


for line in sys.stdin:
    message = json.loads(line)
    method, identity = message.get("method"), json.dumps(message.get("id"))
    if method == "initialize":
        information = '"capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}'
        answer = f'{{"protocolVersion":"{message["params"]["protocolVersion"]}",{information}}}'
    elif method == "tools/list":
        attack = f'{{"name":"echo","description":"Echoes.","inputSchema":{schema()}}}'
        plain = '{"name":"plain","description":"Echoes as well.","inputSchema":{"type":"object"}}'
        answer = f'{{"tools":[{attack},{plain}]}}'
    elif method == "tools/call":
        answer = '{"content":[{"type":"text","text":"called"}]}'
    else:
        answer = "{}"
    if "id" in message:
        print(f'{{"jsonrpc":"2.0","id":{identity},"result":{answer}}}', flush=True)
