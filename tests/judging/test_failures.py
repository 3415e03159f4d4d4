"""What servers say when they refuse, and what follows from it. The sentences are those of the servers named."""

import json
from typing import Any

import openai
import pytest

from recipe.critic_r1.judging.failures import explain, unsupported_field
from tests.judging.test_openai_client import LIBRARY


def refusal(status: int, body: Any) -> openai.APIStatusError:
    payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    sent = LIBRARY.Request("POST", "http://h/v1/chat/completions")
    response = LIBRARY.Response(status, content=payload, request=sent)
    return openai.AsyncOpenAI(api_key="x", base_url="http://h/v1")._make_status_error_from_response(response)


def of(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


FIELDS = [
    (400, of("Unsupported value: 'temperature' does not support 0.0.", param="temperature"), "temperature"),
    (400, of("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens"), "max_tokens"),
    (400, of("litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.0."), "temperature"),
    (400, of("This model doesn't support the temperature parameter"), "temperature"),
    (400, of("`temperature` and `top_p` cannot both be specified for this model."), "top_p"),  # Anthropic
    (400, of("`temperature` is deprecated for this model."), "temperature"),
    (422, {"error": "Input validation error: `temperature` must be strictly positive"}, "temperature"),  # TGI
    (422, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0"}, "top_p"),
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, "seed"),  # FastAPI
    (422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "is not permitted"}]}}, "seed"),
    (400, [of('Invalid JSON payload received. Unknown name "seed": Cannot find field.')], "seed"),  # Gemini
    (400, {"message": "Malformed input request: extraneous key [temperature] is not permitted"}, "temperature"),
    (400, of("Only one completion choice is allowed"), "n"),  # llama.cpp
    (400, of("'n' : number must be less than or equal to 1"), "n"),  # Groq
    (400, [of("Multiple candidates is not enabled for this model")], "n"),  # Gemini
    (400, of("n > 1 is not supported"), "n"),
    (400, of("Invalid n value (currently only n = 1 is supported)", param="n"), "n"),
    (400, of("This endpoint supports only a single completion; got n=4"), "n"),
    (400, of("Unknown parameter: 'logprobs'.", param="logprobs"), None),  # not a field of ours
    (400, of("This model's maximum context length is 4096 tokens; 'max_tokens' is too large"), None),
    (500, of("temperature is not supported"), None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "field"), FIELDS)
def test_fields_that_a_server_does_not_take(status: int, body: Any, field: str | None) -> None:
    assert unsupported_field(refusal(status, body)) == field


QUOTA = "You exceeded your current quota, please check your plan and billing details."

KINDS = [
    (429, of(QUOTA, code="insufficient_quota"), "quota"),
    (429, of(QUOTA, type="insufficient_quota"), "quota"),
    (429, of(QUOTA), "quota"),
    (429, [of(f"{QUOTA} Please retry in 12.5s.")], "again"),  # Gemini, of the minute
    (429, of("Rate limit reached on tokens per min", code="rate_limit_exceeded"), "again"),
    (429, of("suspended due to insufficient balance, please recharge", type="exceeded_current_quota_error"), "quota"),
    (429, {"code": "exhausted", "error": "Your team has used all available credits"}, "quota"),  # xAI
    (400, of("Your credit balance is too low to access the Anthropic API."), "quota"),
    (402, of("Insufficient Balance"), "quota"),
    (403, {"error": "Your newly created team doesn't have any credits yet."}, "quota"),
    (401, of("Incorrect API key provided"), "401"),
    (403, of("Country, region, or territory not supported"), "403"),
    (404, "<html>Not found</html>", "404"),
    (405, "Method not allowed", "405"),
    (407, "", "proxy"),
    (400, of("Unknown parameter: 'logprobs'.", param="logprobs"), "field logprobs"),
    (400, of("API key not valid. Please pass a valid API key."), "alike"),  # Gemini
    (400, of("Model Not Exist"), "alike"),  # DeepSeek
    (400, of("At most 0 image(s) may be provided in one prompt."), "alike"),  # vLLM
    (400, of("Invalid image data", param="messages.[0].content", code="invalid_image"), "alike"),
    (400, "<html>The plain HTTP request was sent to HTTPS port</html>", "alike"),
    (415, "", "alike"),
    (413, "<html>Request Entity Too Large</html>", "rejected"),
    (400, of("Please reduce the length.", code="context_length_exceeded", param="messages"), "rejected"),
    (400, of("You passed 5000 input tokens. However, the model's context length is only 4096 tokens."), "rejected"),
    (400, of("prompt is too long: 210000 tokens > 200000 maximum"), "rejected"),
    (400, of("filtered", code="content_filter"), "filtered"),
    (400, of("Your request was rejected as a result of our safety system."), "filtered"),
    (400, of("Input data may contain inappropriate content.", code="data_inspection_failed"), "filtered"),
    (403, of("Your input was flagged for violence"), "filtered"),
    (500, of("internal"), "again"),
    (529, of("Overloaded", type="overloaded_error"), "again"),
    (503, "<html>", "again"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), KINDS)
def test_what_follows_from_a_refusal(status: int, body: Any, kind: str) -> None:
    """again: another attempt may help. alike: lasting if no request was ever answered. Else the kind, or what lasts."""
    failure = explain(refusal(status, body))
    found = failure.kind if failure.kind != "failed" else "again" if failure.again else failure.lasting
    assert ("alike" if failure.doubtful and failure.lasting else found) == kind
    assert f"status {status}" in failure.message
    assert bool(failure.lasting) <= bool(failure.remedy)


def test_a_redirect_is_a_failure_that_names_the_way_out() -> None:
    failure = explain(refusal(302, ""))
    assert (failure.kind, failure.again, failure.lasting) == ("failed", False, "")
    assert "redirects to nowhere, which is not followed: give that address" in failure.message


@pytest.mark.parametrize(
    "body", [{"detail": "no such thing"}, {"error": "no such thing"}, of("no such thing"), "<b>no such thing</b>"]
)
def test_the_servers_words_are_kept(body: Any) -> None:
    assert "no such thing" in explain(refusal(400, body)).message
