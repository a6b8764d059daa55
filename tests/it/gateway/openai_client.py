"""OpenAI's own client and chat completions: a report that streams, a question after it, and refusals. Usage: URL IMAGE."""

import base64
import sys

import openai

url, path = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key="unused")
model = client.models.list().data[0].id
image = "data:image/jpeg;base64," + base64.b64encode(open(path, "rb").read()).decode()
messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]
report = ""
for chunk in client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=40,
                                            stream_options={"include_usage": True}):
    if chunk.choices and chunk.choices[0].delta.content:
        report += chunk.choices[0].delta.content
    if chunk.usage:
        assert chunk.usage.prompt_tokens > 0 and chunk.usage.completion_tokens > 0, chunk
print("report:", report)
messages += [{"role": "assistant", "content": report}, {"role": "user", "content": "Is there edema?"}]
answer = client.chat.completions.create(model=model, messages=messages, temperature=0)
print("answer:", answer.choices[0].message.content, "|", answer.usage.total_tokens)
again = client.chat.completions.create(model=model, messages=messages, stop=["?"], n=1, response_format={"type": "text"},
                                       tools=openai.NOT_GIVEN, user="ward", frequency_penalty=0)
assert client.models.retrieve(model).id == model
try:
    client.chat.completions.create(model=model, messages=messages, presence_penalty=1)
    raise SystemExit("a penalty was taken")
except openai.BadRequestError as error:
    assert error.param == "presence_penalty", error
try:
    client.chat.completions.create(model="gpt-4o", messages=messages)
    raise SystemExit("an unknown model was answered")
except openai.NotFoundError as error:
    print("refused:", error.code)
