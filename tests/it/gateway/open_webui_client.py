"""What Open WebUI sends to a server of OpenAI's protocol, without Open WebUI: open_webui_client.py URL IMAGE.

The requests are those of the package open-webui 0.12.4 as it is installed, by its `routers/openai.py` (models, headers, body),
`utils/middleware.py` (messages, tools) and `routers/tasks.py` (title, tags, follow-up questions). Fields that it takes out before
it sends (metadata, session, chat, features, variables) are not there. The words of its tasks are ours, of the same form and length.

Since 0.12 its page offers tools of its own with every question, unless the model's parameter "Function Calling" is "Legacy"; the model
calls none."""

import base64
import json
import sys

import httpx

url, path = sys.argv[1:]
image = "data:image/jpeg;base64," + base64.b64encode(open(path, "rb").read()).decode()
gateway = httpx.Client(base_url=url + "/v1", timeout=60, headers={"Content-Type": "application/json", "Authorization": "Bearer unused"})

# The connection's test and the list of models are one request.
listed = gateway.get("/models")
assert listed.status_code == 200 and listed.json()["object"] == "list", listed.text
models = {model["id"]: {**model, "name": model.get("name", model["id"]), "urlIdx": 0} for model in listed.json()["data"]}
model = next(iter(models))
assert not models[model].get("pipeline") and "info" not in models[model], models


def send(body):
    return gateway.post("/chat/completions", content=json.dumps(body))


def streamed(body):
    """The text of a stream as the page puts it together, and the usage."""
    text, usage = "", None
    with gateway.stream("POST", "/chat/completions", content=json.dumps(body)) as answer:
        assert answer.status_code == 200, answer.read()
        assert "text/event-stream" in answer.headers["Content-Type"], answer.headers
        for line in answer.iter_lines():
            if not line.startswith("data:") or line == "data: [DONE]":
                continue
            piece = json.loads(line.removeprefix("data:"))
            assert "error" not in piece, piece
            usage = piece.get("usage") or usage
            for choice in piece["choices"]:
                text += choice["delta"].get("content") or ""
    return text, usage


# A chat: an image that comes without words (a part without words is taken out), and what is asked then.
shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}
report, usage = streamed({"stream": True, "model": model, "messages": [shown]})
assert usage is None, usage
print("report:", report)
asked = {"role": "user", "content": "Is there edema?"}
chat = [shown, {"role": "assistant", "content": report}, asked]
print("answer:", streamed({"stream": True, "model": model, "messages": chat})[0])

# With "Usage" among the model's capabilities, a system prompt of the user, and parameters set in the chat's controls.
_, usage = streamed({"stream": True, "model": model, "stream_options": {"include_usage": True}, "temperature": 0.2, "max_tokens": 128,
                     "top_p": 0.9, "seed": 7, "stop": ["###"], "frequency_penalty": 0, "presence_penalty": 0,
                     "messages": [{"role": "system", "content": "Be brief."}, *chat]})
assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0, usage
together = {"role": "user", "content": [{"type": "text", "text": "Is there edema?"}, shown["content"][0]]}
print("together:", streamed({"stream": True, "model": model, "messages": [together]})[0])


def task(name, rules, form, last):
    """One of the tasks behind a chat: a single message with rules, a form in JSON, and the end of the chat in tags."""
    said = [("USER", "Is there edema?"), ("ASSISTANT", report)][-last:]
    history = "\n".join(f"{role}: {text}" for role, text in said)
    rules = "\n".join(f"- {rule}" for rule in rules)
    content = (f"### Task:\n{name}\n### Guidelines:\n{rules}\n### Output:\nJSON format: {form}\n### Chat History:\n"
               f"<chat_history>\n{history}\n</chat_history>")
    body = {"model": model, "messages": [{"role": "user", "content": content}], "stream": False}
    # The title has a limit of its own, which others get where the operator has set one.
    if last == 2:
        body["max_tokens"] = 1000
    answer = send(body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"], answer.text


rules = ["Keep to what this conversation is about, and to the language that it is written in.",
         "Answer with one JSON object and nothing before or behind it: no fences, no greeting, no explanation.",
         "Two to four words are enough for each entry; leave out quotation marks and pictures.",
         "Where you are not sure, prefer the plain and general word to the special one."] * 3
task("Find a name for this conversation.", rules, '{ "title": "the name" }', 2)
task("Find one to three words for what this conversation is about.", rules, '{ "tags": ["word", "another word"] }', 6)
task("Find three to five questions that the user may have next.", rules, '{ "follow_ups": ["a question?", "another question?"] }', 6)
print("tasks: done")

# What the page offers unless "Function Calling" is "Legacy": the model may leave it alone, unless it is made to call.
clock = {"name": "get_current_timestamp", "description": "Gives the time.", "parameters": {"type": "object", "properties": {}, "required": []}}
offered = {"stream": True, "model": model, "messages": chat, "tools": [{"type": "function", "function": clock}]}
print("offered:", streamed(offered)[0])
refused = send({**offered, "tool_choice": "required"})
error = refused.json()["error"]
assert refused.status_code == 400 and error["param"] == "tool_choice", refused.text
