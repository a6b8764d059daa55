"""LangChain against a gateway: langchain_client.py URL IMAGE. What it sends by default is answered, and what cannot be done is
refused with the name of the field."""

import asyncio
import base64
import sys

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url, path = sys.argv[1:]
encoded = base64.b64encode(open(path, "rb").read()).decode()
image = HumanMessage(content=[{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}])
question = HumanMessage("Is there edema?")


class Edema(BaseModel):
    """What a structured answer would have."""

    present: bool


def client(**more):
    return ChatOpenAI(base_url=url + "/v1", api_key="unused", model="radialog", max_retries=0, **more)


def refused(what, param, ask):
    try:
        ask()
    except openai.BadRequestError as error:
        assert error.param == param, (what, error)
        print("refused:", what)
        return
    raise SystemExit(f"{what} was taken")


model = client()
report = model.invoke([SystemMessage("You are a radiologist."), image])
print("report:", report.content)
assert report.usage_metadata["input_tokens"] > 0 and report.usage_metadata["output_tokens"] > 0, report
assert report.response_metadata["finish_reason"] == "stop", report

# The answer goes back as LangChain keeps it.
print("answer:", model.invoke([image, report, question]).content)
assert isinstance(report, AIMessage)

# LangChain's own form of an image, beside words.
words = {"type": "text", "text": "Is there edema?"}
own = HumanMessage(content=[words, {"type": "image", "base64": encoded, "mime_type": "image/jpeg"}])
print("own form:", model.invoke([own]).content)

pieces = list(client(stream_usage=True).stream([image]))
assert sum(bool(piece.content) for piece in pieces) > 1, pieces
whole = pieces[0]
for piece in pieces[1:]:
    whole = whole + piece
print("streamed:", whole.content)
assert whole.usage_metadata["output_tokens"] > 0, whole
assert "".join(piece.content for piece in model.stream([image])) == whole.content

print("batch:", [answer.content for answer in model.batch([[question], [HumanMessage("Is the heart large?")]])])


async def beside():
    answer = await model.ainvoke([question])
    pieces = [piece.content async for piece in model.astream([question])]
    assert "".join(pieces) == answer.content, (pieces, answer)
    print("asynchronous:", answer.content)


asyncio.run(beside())

set_by_hand = client(temperature=0, max_tokens=50, top_p=1, seed=3, n=1, presence_penalty=0, frequency_penalty=0, logprobs=False,
                     stop=["###"])
print("set by hand:", set_by_hand.invoke([question]).content)
# An agent without tools.
print("agent:", model.bind_tools([]).invoke([question]).content)
# One with tools, which the model may leave alone.
offered = model.bind_tools([Edema]).invoke([question])
assert offered.tool_calls == [], offered
print("tools:", offered.content)
kept = client(use_responses_api=True).invoke([image])
print("response:", kept.text)

for method, param in [("json_schema", "response_format.type"), ("json_mode", "response_format.type"), ("function_calling", "tool_choice")]:
    refused(method, param, lambda: model.with_structured_output(Edema, method=method).invoke([question]))
refused("forced", "tool_choice", lambda: model.bind_tools([Edema], tool_choice="required").invoke([question]))
refused("penalty", "presence_penalty", lambda: client(presence_penalty=1).invoke([question]))
