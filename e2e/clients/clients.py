"""The Python half of `run`: websockets, grpcio, openai and httpx against a gateway.

Everything is checked by assert; the first wrong answer ends the program with a traceback that names the check.
"""

import os
import socket
import sys

import grpc
import httpx
import openai
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

address, domain, namespace, endpoint, stopped = sys.argv[1:]
host = f"{endpoint}.{namespace}.{domain}"
stopped_host = f"{stopped}.{namespace}.{domain}"
STOPPED = "the endpoint is stopped"


def dial():
    name, port = address.rsplit(":", 1)
    return socket.create_connection((name, int(port)))


def websockets():
    with connect(f"ws://{host}/ws", sock=dial(), compression=None, proxy=None) as client:
        for message in ["short", "ü" * 1000, os.urandom(70_000), b""]:
            client.send(message)
            assert client.recv(timeout=30) == message
        client.send(["in ", "three ", "pieces"])
        assert client.recv(timeout=30) == "in three pieces"
        assert client.ping().wait(30)
        client.close()
        assert client.close_code == 1000, client.close_code
    try:
        connect(f"ws://{stopped_host}/ws", sock=dial(), proxy=None)
    except InvalidStatus as refused:
        assert refused.response.status_code == 503, refused
        assert refused.response.headers["tenure-reason"] == "stopped", refused.response.headers
    else:
        raise AssertionError("a stopped endpoint took a WebSocket")


def grpc_channel(authority):
    options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
    return grpc.insecure_channel(address, options=options)


def grpcio():
    with grpc_channel(host) as channel:
        unary = channel.unary_unary("/test.Echo/Unary")
        for message in [b"words", b"", os.urandom(1_000_000)]:
            assert unary(message, timeout=30) == message
        calls = [unary.future(str(it).encode(), timeout=30) for it in range(50)]
        assert [it.result() for it in calls] == [str(it).encode() for it in range(50)]
        messages = [str(it).encode() for it in range(100)]
        both = channel.stream_stream("/test.Echo/Stream")(iter(messages), timeout=30)
        assert list(both) == messages
        assert both.code() == grpc.StatusCode.OK, both.code()
        cancelled = channel.stream_stream("/test.Echo/Stream")(iter(messages), timeout=30)
        next(cancelled)
        cancelled.cancel()
    with grpc_channel(stopped_host) as channel:
        try:
            channel.unary_unary("/test.Echo/Unary")(b"words", timeout=30)
        except grpc.RpcError as refused:
            assert refused.code() == grpc.StatusCode.UNAVAILABLE, refused
            assert refused.details().startswith(STOPPED), refused
        else:
            raise AssertionError("a stopped endpoint took a gRPC call")


def chat(name):
    client = httpx.Client(trust_env=False)
    return openai.OpenAI(
        base_url=f"http://{address}/{namespace}/{name}/v1", api_key="none", max_retries=0, http_client=client
    )


def openai_api():
    client = chat(endpoint)
    assert [it.id for it in client.models.list()] == ["echo"]
    asked = {"model": "echo", "messages": [{"role": "user", "content": "say these five words again"}]}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == "say these five words again", whole
    pieces = list(client.chat.completions.create(**asked, stream=True, extra_query={"gap_ms": "20"}))
    text = "".join(it.choices[0].delta.content or "" for it in pieces)
    assert text == "say these five words again", text
    assert pieces[-1].choices[0].finish_reason == "stop", pieces[-1]
    try:
        chat(stopped).chat.completions.create(**asked)
    except openai.InternalServerError as refused:
        assert refused.status_code == 503, refused
        assert STOPPED in str(refused) and refused.code == "stopped", refused
        assert refused.response.headers["tenure-reason"] == "stopped"
    else:
        raise AssertionError("a stopped endpoint answered a chat")
    try:
        chat("none").models.list()
    except openai.NotFoundError as refused:
        assert "no endpoint has this host or path" in str(refused), refused
    else:
        raise AssertionError("an endpoint that is not there answered")


def httpx_client():
    with httpx.Client(base_url=f"http://{address}", headers={"host": host}, trust_env=False, timeout=30) as client:
        for _ in range(20):
            assert client.get("/").status_code == 200
        upload = (os.urandom(1000) for _ in range(50))
        assert len(client.post("/echo", content=upload).content) == 50_000
        with client.stream("GET", "/events", params={"count": 20, "gap_ms": 10}) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            events = [it for it in answer.iter_lines() if it.startswith("data: ")]
        assert events == [f"data: event {it}" for it in range(20)], events
        # Who leaves in the middle leaves a good connection to the worker, or none.
        with client.stream("GET", "/stream", params={"chunks": 1000, "gap_ms": 20}) as answer:
            next(answer.iter_lines())
        assert client.get("/").status_code == 200


for check in [websockets, grpcio, openai_api, httpx_client]:
    check()
