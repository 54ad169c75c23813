"""What a client that openapi-python-client has made does on a live node, and what the document's patterns take.

Usage: PYTHONPATH=<the generated client> python generated_client.py <address of the node> <openapi.json>
"""

import io
import json
import re
import sys

import httpx
from huskv_client import Client
from huskv_client.api.cluster import get_health, get_readyz, get_stats
from huskv_client.api.store import apply_transaction, delete_key, get_key, list_keys, put_key, remove_prefix, set_key
from huskv_client.models import (
    Code,
    ItemAnswer,
    Problem,
    SetKeyRequest,
    TransactionRequest,
    TransactionResult,
    TxnCondition,
    TxnOperation,
    TxnOperationOp,
)
from huskv_client.types import File

address, document = sys.argv[1:]
client = Client(base_url=f"http://{address}", raise_on_unexpected_status=True)


def use():
    put = put_key.sync("a/b c", client=client, body=File(payload=io.BytesIO(b"bytes")), if_none_match="*")
    version = put.data.version
    again = put_key.sync("a/b c", client=client, body=File(payload=io.BytesIO(b"other")), if_none_match="*")
    assert isinstance(again, Problem) and again.code is Code.PRECONDITION_FAILED, again
    assert again.version == version and again.outcome.value == "not_applied", again

    set_key.sync(client=client, body=SetKeyRequest(key="json", value={"n": 1}), idempotency_key="once")
    stored = set_key.sync(client=client, body=SetKeyRequest(key="a/text", value="text"))
    assert stored.data.value == "text", stored

    read = get_key.sync("a/b c", client=client)
    assert isinstance(read, ItemAnswer), read
    assert (read.data.value, read.data.value_base64, read.data.version) == (None, "Ynl0ZXM=", version), read
    assert get_key.sync("json", client=client).data.value == {"n": 1}
    assert get_key.sync("none", client=client).code is Code.KEY_NOT_FOUND

    page = list_keys.sync(client=client, prefix="a/", limit=1)
    assert [item.key for item in page.data.items] == ["a/b c"], page
    page = list_keys.sync(client=client, prefix="a/", limit=1, cursor=page.data.next_cursor)
    assert [item.key for item in page.data.items] == ["a/text"] and page.data.next_cursor is None, page

    done = apply_transaction.sync(
        client=client,
        body=TransactionRequest(
            if_=[TxnCondition(key="a/b c", version=version)],
            then=[TxnOperation(op=TxnOperationOp.PUT, key="a/b c", value=2)],
            else_=[TxnOperation(op=TxnOperationOp.GET, key="a/b c")],
        ),
    )
    assert isinstance(done.data, TransactionResult) and done.data.succeeded, done
    assert get_key.sync("a/b c", client=client).data.value == 2

    gone = delete_key.sync("a/b c", client=client)
    assert (gone.data.deleted, gone.data.value) == (True, None), gone
    assert remove_prefix.sync(client=client, prefix="a/").data.deleted == 1

    health, stats = get_health.sync(client=client), get_stats.sync(client=client)
    assert health.status.value == "healthy" and health.leader.node_id == stats.data.leader.node_id, health
    assert get_readyz.sync(client=client) == "ok\n"


# Of each parameter what the server takes and what it does not.
SAMPLES = {
    "Timeout": ["1ms", "007ms", "9999ms", "60000ms", "2s", "60s", "0ms", "0s", "61s", "60001ms", "5", "1.5s", "1 s"],
    "MaxStale": ["1ms", "60000ms", "60s", "0s", "61s", "x"],
    "LastEventId": ["", "0", "25", "25.1", "25.01", "25.0", ".1", "25.", "x"],
    "IfMatch": ["*", '"7"', '"10000000000000000000"', 'W/"7"', 'W/"7-gzip"', '"0"', '"07"', "7", 'W/7', '"7", "8"'],
    "IfNoneMatchAll": ["*", '"7"', "x"],
    "IdempotencyKey": ["a", "!~", "a" * 64, "a" * 65, "a b"],
}


def patterns():
    parameters = json.load(open(document))["components"]["parameters"]
    for name, samples in SAMPLES.items():
        parameter = parameters[name]
        for sample in samples:
            request = {"method": "PUT", "url": "/store/sample", "content": b"x", "headers": {}, "params": {}}
            if name == "LastEventId":
                request |= {"method": "GET", "url": "/watch", "content": None, "params": {"prefix": ""}}
            if name == "MaxStale":
                request |= {"method": "GET", "content": None, "params": {"consistency": "stale"}}
            request["headers" if parameter["in"] == "header" else "params"][parameter["name"]] = sample
            with httpx.stream(request.pop("method"), f"http://{address}" + request.pop("url"), **request) as answer:
                taken = answer.status_code != 400
            matches = re.search(parameter["schema"]["pattern"], sample) is not None
            assert taken == matches, f"{name} {sample!r}: the server takes it: {taken}, the pattern: {matches}"


use()
patterns()
print("generated_client.py: passed")
