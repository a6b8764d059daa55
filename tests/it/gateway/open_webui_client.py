"""What Open WebUI sends to a server of OpenAI's protocol, without Open WebUI: open_webui_client.py URL IMAGE.

The requests have the form of those that the package open-webui 0.12.4 sent to a gateway on 30 November 2026, as it is installed, while
its own page was used in a headless Chromium. Names, ids and the words of its tasks are ours, of the same form and length.

Since 0.12 its page offers tools of its own with every question, which the model leaves alone, and names the files of a message before its
words, in a text of its own; neither where the model's parameter "Function Calling" is "Legacy"."""

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


def pieces(path, body):
    """What comes in a stream, and what its header says is not used."""
    with gateway.stream("POST", path, content=json.dumps(body)) as answer:
        assert answer.status_code == 200, answer.read()
        assert "text/event-stream" in answer.headers["Content-Type"], answer.headers
        lines = [line.removeprefix("data:") for line in answer.iter_lines() if line.startswith("data:") and line != "data: [DONE]"]
        return [json.loads(line) for line in lines], answer.headers.get("radialog-warning", "")


def streamed(body):
    """The text of a chat completion as the page puts it together, the usage, and the warning."""
    text, usage = "", None
    found, warning = pieces("/chat/completions", {"stream": True, "model": model, **body})
    for piece in found:
        assert "error" not in piece, piece
        usage = piece.get("usage") or usage
        for choice in piece["choices"]:
            text += choice["delta"].get("content") or ""
    return text, usage, warning


# What the page offers with every question of a chat: the model may leave it alone, unless it is made to call.
clock = {"name": "get_current_timestamp", "description": "Gives the time.", "parameters": {"properties": {}, "type": "object"}}
tools = [{"type": "function", "function": clock}]


def listing(id):
    """The text before the words of a message that has a file."""
    file = f'<file type="file" id="{id}" url="{id}" content_type="image/jpeg" name="xray.jpg"/>'
    return {"type": "text", "text": f"<attached_files>\n{file}\n</attached_files>\n\n"}


# A chat that is kept: an image that comes without words (a part without words is taken out), and what is asked then.
picture = {"type": "image_url", "image_url": {"url": image}}
block = listing("0b8e6d1e-6f0c-4c39-9f4a-5a7f3c1d2e90")
words = {"type": "text", "text": "Is there edema?"}
shown = {"role": "user", "content": [block, picture]}
report, usage, warning = streamed({"messages": [shown], "tools": tools})
assert usage is None, usage
assert "messages[0].content" in warning and "tools" in warning, warning
print("report:", report)
asked = {"role": "user", "content": "Is there edema?"}
chat = [shown, {"role": "assistant", "content": report}, asked]
answer = streamed({"messages": chat, "tools": tools})[0]
print("answer:", answer)
together = {"role": "user", "content": [block, words, picture]}
print("together:", streamed({"messages": [together], "tools": tools})[0])

# A temporary chat, whose files are not kept and not named.
print("temporary:", streamed({"messages": [{"role": "user", "content": [picture]}], "tools": tools})[0])

# With "Usage" among the model's capabilities, a system prompt of the user, and parameters set in the chat's controls.
_, usage, _ = streamed({"stream_options": {"include_usage": True}, "temperature": 0.2, "max_tokens": 128,
                        "top_p": 0.9, "seed": 7, "stop": ["###"], "frequency_penalty": 0, "presence_penalty": 0,
                        "messages": [{"role": "system", "content": "Be brief."}, *chat], "tools": tools})
assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0, usage


def refused(messages, **fields):
    """The field that a chat is refused by, and what the page shows of it."""
    answer = send({"stream": True, "model": model, "messages": messages, "tools": tools, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["message"]


# "Continue Response", and another image in the same chat.
param, message = refused([*chat, {"role": "assistant", "content": answer}])
assert "must be the user's" in message, message
print("continued:", param)
other = {"role": "user", "content": [listing("5d7e2a30-1c55-4a0e-8d7c-2f3b6a9c4e11"), {"type": "text", "text": "And this one?"}, picture]}
param, message = refused([*chat[:2], other])
assert "new chat" in message, message
print("second image:", param)
assert refused(chat, tool_choice="required")[0] == "tool_choice"
# A file that is no image, with words about it.
document = {"role": "user", "content": listing("c2a0f7d4-93b1-4e58-a6c3-1d9e8b7f6a05")["text"] + "And this one?"}
param, message = refused([*chat[:2], document])
assert (param, "new chat" in message) == ("messages[2].content", True), message


def task(name, rules, form, last):
    """The one message of a task behind a chat: rules, a form in JSON, and the end of the chat in tags."""
    said = [("USER", "Is there edema?"), ("ASSISTANT", report)][-last:]
    history = "\n".join(f"{role}: {text}" for role, text in said)
    rules = "\n".join(f"- {rule}" for rule in rules)
    return (f"### Task:\n{name}\n### Guidelines:\n{rules}\n### Output:\nJSON format: {form}\n### Chat History:\n"
            f"<chat_history>\n{history}\n</chat_history>")


rules = ["Keep to what this conversation is about, and to the language that it is written in.",
         "Answer with one JSON object and nothing before or behind it: no fences, no greeting, no explanation.",
         "Two to four words are enough for each entry; leave out quotation marks and pictures.",
         "Where you are not sure, prefer the plain and general word to the special one."] * 3
# The title has a limit of its own, which others get where the operator has set one.
tasks = [
    (task("Find a name for this conversation.", rules, '{ "title": "the name" }', 2), 1000),
    (task("Find one to three words for what this conversation is about.", rules, '{ "tags": ["word", "another word"] }', 6), None),
    (task("Find three to five questions that the user may have next.", rules, '{ "follow_ups": ["a question?", "another question?"] }', 6), None),
]
for text, most in tasks:
    limit = {"max_tokens": most} if most else {}
    answer = send({"model": model, "messages": [{"role": "user", "content": text}], "stream": False, **limit})
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"], answer.text
print("tasks: done")


# A connection whose API type is "Responses" sends the same in another form.
def response_part(part):
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}


def response_item(message):
    if message["role"] == "assistant":
        parts = [{"type": "output_text", "text": message["content"]}]
    elif isinstance(message["content"], str):
        parts = [{"type": "input_text", "text": message["content"]}]
    else:
        parts = [response_part(part) for part in message["content"]]
    return {"type": "message", "role": message["role"], "content": parts}


def response_body(messages, **fields):
    return {"model": model, "input": [response_item(message) for message in messages], **fields}


flat_tools = [{"type": "function", **clock, "strict": False}]


def responded(messages):
    events, warning = pieces("/responses", response_body(messages, stream=True, tools=flat_tools))
    assert events[-1]["type"] == "response.completed", events[-1]
    assert "tools" in warning and "input[0].content" in warning, warning
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


print("responses report:", responded([shown]))
print("responses answer:", responded(chat))
print("responses together:", responded([together]))
# It makes a system prompt the instructions.
instructed = gateway.post("/responses", content=json.dumps(response_body(chat, instructions="Be brief.")))
assert (instructed.status_code, instructed.json()["error"]["param"]) == (400, "instructions"), instructed.text
for text, most in tasks:
    limit = {"max_output_tokens": most} if most else {}
    body = response_body([{"role": "user", "content": text}], stream=False, **limit)
    answer = gateway.post("/responses", content=json.dumps(body))
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"], answer.text
print("responses tasks: done")
