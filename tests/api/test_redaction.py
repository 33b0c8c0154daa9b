"""What a redacted log still says: no word of a request or an answer."""

import json

from hypothesis import given, strategies as st

from api.redaction import redacted

SECRET = "the patient's name"

json_values = st.recursive(
    st.just(SECRET) | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "content", "role", "model", "id", "tools", "choices", SECRET, "prompt"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_text_is_never_shown_wherever_it_stands(body):
    assert SECRET not in json.dumps(redacted(body))


def test_what_a_tool_is_called_with_is_not_looked_into():
    call = {"type": "tool_use", "name": "find", "input": {"id": "patient-7", "status": "ill"}}
    assert redacted({"content": [call]}) == {
        "content": [{"type": "tool_use", "name": "[4 characters]", "input": "[an object]"}]
    }


def test_how_is_kept_and_what_is_sized():
    body = {
        "model": "org/m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": SECRET},
            {"role": "user", "content": [{"type": "text", "text": SECRET}]},
        ],
        "metadata": {SECRET: SECRET},
        "tools": [{"type": "function"}],
        SECRET: 1,
    }
    assert redacted(body) == {
        "model": "org/m",
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": "[18 characters]"},
            {"role": "user", "content": [{"type": "text", "text": "[18 characters]"}]},
        ],
        "metadata": "[an object]",
        "tools": "[1 items]",
    }


def test_token_ids_are_text_too():
    assert redacted({"prompt": [17, 4711], "input": [4711]}) == {
        "prompt": "[2 items]",
        "input": ["[a number]"],
    }


def test_what_is_no_json_is_a_size():
    assert redacted("{bad") == "[4 characters]"
