"""OpenAI's own client and a batch of requests, from its file to its answers. Usage: URL."""

import io
import json
import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused")
model = client.models.list().data[0].id


def line(name, text, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"


requests = line("one", "Is there edema?") + line("two", "Is there more?", presence_penalty=1)
file = client.files.create(file=("requests.jsonl", io.BytesIO(requests.encode())), purpose="batch")
assert client.files.retrieve(file.id).bytes == len(requests), file
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h",
                              metadata={"ward": "seven"})
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.1)
    batch = client.batches.retrieve(batch.id)
assert batch.status == "completed" and batch.metadata == {"ward": "seven"}, batch
counts = batch.request_counts
print("counts:", counts.total, counts.completed, counts.failed)
answer = json.loads(client.files.content(batch.output_file_id).text)
print("answer:", answer["custom_id"], answer["response"]["body"]["choices"][0]["message"]["content"])
fault = json.loads(client.files.content(batch.error_file_id).text)
print("fault:", fault["custom_id"], fault["response"]["body"]["error"]["param"])
assert [one.id for one in client.batches.list(limit=1)] == [batch.id]
assert {one.id for one in client.files.list()} == {file.id, batch.output_file_id, batch.error_file_id}
assert client.batches.cancel(batch.id).status == "completed"
assert client.files.delete(file.id).deleted
