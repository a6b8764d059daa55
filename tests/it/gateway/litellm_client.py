"""LiteLLM against a gateway: litellm_client.py URL IMAGE. What it sends by default is answered, by either of its providers for
servers like this one, and what cannot be done is refused."""

import asyncio
import base64
import os
import sys

# Prices of models are not fetched from anywhere.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

litellm.telemetry = False
litellm.suppress_debug_info = True

url, path = sys.argv[1:]
image = "data:image/jpeg;base64," + base64.b64encode(open(path, "rb").read()).decode()
shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]
question = {"role": "user", "content": "Is there edema?"}


def refused(what, kind, ask):
    try:
        ask()
    except kind as error:
        assert what in str(error), (what, error)
        return
    raise SystemExit(f"{what} was taken")


for provider in ["openai", "custom_openai"]:
    common = {"model": f"{provider}/radialog", "api_base": url + "/v1", "api_key": "unused", "max_retries": 0}
    report = litellm.completion(messages=shown, **common)
    print(f"{provider} report:", report.choices[0].message.content)
    assert report.usage.prompt_tokens > 0 and report.usage.completion_tokens > 0, report
    assert report.choices[0].finish_reason == "stop", report
    # The answer goes back as LiteLLM keeps it, whole and as a dictionary.
    for said in [report.choices[0].message, report.choices[0].message.model_dump()]:
        answer = litellm.completion(messages=[*shown, said, question], **common)
        print(f"{provider} answer:", answer.choices[0].message.content)
    pieces = [piece.choices[0].delta.content or "" for piece in litellm.completion(messages=shown, stream=True, **common)]
    assert "".join(pieces) == report.choices[0].message.content, pieces

    async def streamed():
        stream = await litellm.acompletion(messages=shown, stream=True, stream_options={"include_usage": True}, temperature=0,
                                           max_tokens=50, top_p=1, n=1, user="ward", stop=None, seed=3, tools=None, **common)
        text, usage = "", None
        async for piece in stream:
            text += "".join(choice.delta.content or "" for choice in piece.choices)
            usage = getattr(piece, "usage", None) or usage
        return text, usage

    text, usage = asyncio.run(streamed())
    assert text == report.choices[0].message.content and usage.completion_tokens > 0, (text, usage)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    # The model may leave them alone.
    offered = litellm.completion(messages=[question], tools=tools, **common).choices[0].message
    assert offered.content and not offered.tool_calls, offered
    for field, value in [("response_format", {"type": "json_object"}), ("presence_penalty", 1.0)]:
        refused(field, litellm.BadRequestError, lambda: litellm.completion(messages=[question], **{field: value}, **common))
    refused("top_k", litellm.BadRequestError, lambda: litellm.completion(messages=[question], top_k=5, **common))
    unknown = {**common, "model": f"{provider}/gpt-4o"}
    refused("model", litellm.NotFoundError, lambda: litellm.completion(messages=[question], **unknown))
    print(f"{provider}: refused")
