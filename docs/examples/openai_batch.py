"""OpenAI's client and its Batches: `pip install openai`. OPENAI_BASE_URL is the gateway's, and ends with /v1.

The gateway needs a directory for files: `tokenlane serve --files DIR`.
"""

from __future__ import annotations

import json
import sys
import time

from openai import OpenAI

client = OpenAI()
lines = [
    {
        "custom_id": city,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": sys.argv[1], "messages": [{"role": "user", "content": f"Which country is {city} in?"}]},
    }
    for city in ("Paris", "Rome", "Madrid")
]
content = "\n".join(map(json.dumps, lines)).encode()
source = client.files.create(file=("cities.jsonl", content), purpose="batch")
batch = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h")
while batch.status in ("validating", "in_progress"):
    time.sleep(0.2)
    batch = client.batches.retrieve(batch.id)
print(batch.status)
for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
    for line in client.files.content(file_id).text.splitlines():
        result = json.loads(line)
        print(result["custom_id"], result["response"] or result["error"])
