#!/usr/bin/env python3
"""How a receiver verifies a webhook of Tenure; Standard Webhooks has libraries that do the same.

    verify_webhook.py KEY WEBHOOK_ID WEBHOOK_TIMESTAMP WEBHOOK_SIGNATURE < BODY
"""

import base64
import hashlib
import hmac
import sys
import time

TOLERANCE_SECONDS = 300


def verify(key: str, webhook_id: str, timestamp: str, signatures: str, body: bytes, now: float) -> bool:
    """key: as in the Secret. signatures: the whole header; one that matches suffices. body: as it came, byte for byte."""
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    secret = base64.b64decode(key.removeprefix("whsec_"))
    signed = b".".join([webhook_id.encode(), timestamp.encode(), body])
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    versions = (it.partition(",") for it in signatures.split(" "))
    return any(version == "v1" and hmac.compare_digest(given, expected) for version, _, given in versions)


if __name__ == "__main__":
    good = verify(*sys.argv[1:5], sys.stdin.buffer.read(), time.time())
    print("good" if good else "not from Tenure, or old")
    sys.exit(0 if good else 1)
