"""OpenAI's own client and the responses of two gateways. Usage: URL OTHER_URL IMAGE."""

import base64
import sys
import time

import openai
from openai.types.responses import Response, ResponseCompletedEvent, ResponseTextDeltaEvent

url, other_url, path = sys.argv[1:]
one, two = (openai.OpenAI(base_url=u + "/v1", api_key="unused", max_retries=0) for u in (url, other_url))
model = one.models.list().data[0].id
image = "data:image/jpeg;base64," + base64.b64encode(open(path, "rb").read()).decode()
picture = {"type": "input_image", "detail": "auto", "image_url": image}


def final(client, response):
    """Polls as OpenAI's guide to background mode does."""
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


# An image as a data URI, answered at once.
report = one.responses.create(model=model, input=[{"role": "user", "content": [picture]}], metadata={"ward": "7"})
assert isinstance(report, Response) and report.status == "completed", report
assert report.usage.total_tokens == report.usage.input_tokens + report.usage.output_tokens > 0, report.usage
assert report.metadata == {"ward": "7"} and report.created_at > 0, report
print("report:", report.output_text)

# Going on from it, at the other gateway, in a stream with the client's own accumulation.
with two.responses.stream(model=model, input="Is there edema?", previous_response_id=report.id) as stream:
    deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    answer = stream.get_final_response()
assert deltas == answer.output_text and answer.previous_response_id == report.id, answer
print("answer:", answer.output_text)

# The answer given back as the client has it, and what was asked.
dialog = [{"role": "user", "content": "Is there edema?"}, *answer.output, {"role": "user", "content": "Sure?"}]
sure = one.responses.create(model=model, input=dialog, store=False)
assert sure.output_text == "You asked: Sure?", sure
items = list(one.responses.input_items.list(report.id, include=["message.input_image.image_url"], order="asc"))
assert items[0].content[0].image_url == image, "the image is not what was sent"

# In the background, polled at the other gateway.
background = one.responses.create(model=model, input="one two", background=True)
assert final(two, background).output_text == "You asked: one two"

# A stream that breaks off and goes on at the other gateway.
long = " ".join(str(number) for number in range(60))
stream = one.responses.create(model=model, input=long, background=True, stream=True)
read = []
for event in stream:
    read.append(event)
    if event.sequence_number == 12:
        break
stream.close()
assert isinstance(read[-1], ResponseTextDeltaEvent), read[-1]
name = read[0].response.id
read += two.responses.retrieve(name, stream=True, starting_after=read[-1].sequence_number)
assert [event.sequence_number for event in read] == list(range(len(read)))
assert isinstance(read[-1], ResponseCompletedEvent), read[-1]
assert read == list(one.responses.retrieve(name, stream=True)), "a resumed stream differs"
assert "".join(event.delta for event in read if event.type == "response.output_text.delta") == "You asked: " + long
print("resumed:", len(read), "events")

# Cancelled while it is being answered.
endless = one.responses.create(model=model, input="word " * 3000, background=True)
while one.responses.retrieve(endless.id).status != "in_progress":
    time.sleep(0.05)
cancelled = two.responses.cancel(endless.id)
assert cancelled.status == "cancelled", cancelled.status
assert one.responses.cancel(endless.id) == cancelled
last = list(one.responses.retrieve(endless.id, stream=True))[-1]
assert last.type == "response.failed" and last.response.status == "cancelled", last
print("cancelled")

# The same idempotency key is the same response.
once = {"model": model, "input": "once", "extra_headers": {"Idempotency-Key": "once"}}
assert one.responses.create(**once).id == two.responses.create(**once).id

for refused, param, status in [
    ({"model": "gpt-4o"}, "model", openai.NotFoundError),
    ({"instructions": "Rhyme."}, "instructions", openai.BadRequestError),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", openai.BadRequestError),
    ({"reasoning": {"effort": "low"}}, "reasoning", openai.BadRequestError),
    ({"previous_response_id": "resp_" + "0" * 32}, "previous_response_id", openai.NotFoundError),
    ({"background": True, "store": False}, "background", openai.BadRequestError),
    ({"input": [{"role": "system", "content": "Rhyme."}]}, "input[0].role", openai.BadRequestError),
    ({"extra_body": {"magic": 1}}, "magic", openai.BadRequestError),
]:
    try:
        one.responses.create(**{"model": model, "input": "x", **refused})
    except status as error:
        assert error.param == param, (error.param, param)
    else:
        raise SystemExit(f"{param} was not refused")
try:
    one.responses.create(model=model, input="x", background=True, stream=True, stream_options={"include_obfuscation": True})
except openai.BadRequestError as error:
    assert error.param == "stream_options.include_obfuscation", error.param
failed = one.responses.create(model=model, input="This fails.")
assert failed.status == "failed" and failed.error.code == "server_error", failed
print("refused")

one.responses.delete(report.id)
try:
    two.responses.retrieve(report.id)
except openai.NotFoundError as error:
    print("deleted:", error.code)
