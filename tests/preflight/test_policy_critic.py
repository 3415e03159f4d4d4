"""A critic that rewards the policy: what is refused before a run starts, and what is warned about."""

import pytest

from data_prep.sources import digits
from data_prep.tasks.ordering import preference_tasks
from data_prep.writer import write_parquet
from recipe.critic_r1 import preflight
from recipe.critic_r1.preflight import policy_critic
from tests import made_digits
from tests.judging.fake_server import FakeServer, prefers_larger
from tests.preflight.conftest import ROLLOUT, Run, every_refusal_was_made

GROUP, PROBE = "critic_r1.group_reward", "critic_r1.probe"
VARIANT = {"variant": "policy_by_critic"}
URL = VARIANT | {f"{GROUP}.url": "http://127.0.0.1:9/v1", f"{GROUP}.model": "critic"}
GREEDY = {f"{GROUP}.scheme": "margin", f"{GROUP}.reference": "greedy"}
OWN = VARIANT | {f"{GROUP}.judge": "self"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Questions, and critic rows."""
    folder = tmp_path_factory.mktemp("data")
    indices = digits.digit_split(0, 0, 4, 0)["rl"]
    write_parquet(made_digits.questions(indices), folder / "policy")
    write_parquet(preference_tasks(made_digits.pairs(indices), orders="both", template="compact"), folder / "critic")
    return str(folder / "policy" / "train-00000.parquet"), str(folder / "critic" / "train-00000.parquet")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (VARIANT, "needs url"),
        (URL | {f"{GROUP}.url": "localhost:8000/v1"}, "write http://HOST:PORT/v1"),
        (URL | {f"{GROUP}.scheme": "best"}, "win_rate, knock_out"),
        (URL | {f"{GROUP}.orders": "one"}, "orders must be one of both, drawn"),
        (URL | {f"{GROUP}.reference": "greedy"}, "reference=greedy is for scheme=margin, not knock_out"),
        (URL | GREEDY | {"tuning": "async"}, "reference=greedy needs trainer.v1.trainer_mode=critic_sync"),
        (URL | GREEDY | {"tuning": "lora"}, "without its adapters"),
        (
            URL | GREEDY | {"+actor_rollout_ref.model.custom_chat_template": "x"},
            "use the template in the model's folder",
        ),
        (URL | {f"{GROUP}.template": "odd"}, "there is no template 'odd'"),
        (URL | {f"{GROUP}.judge": "me"}, "choose one of url, frozen, self"),
        (URL | {f"{GROUP}.judge": "self"}, "leave out url and model"),
        (OWN | {"tuning": "async"}, "trainer_mode=critic_sync, not colocate_async"),
        (OWN | {"tuning": "lora"}, "without its adapters"),
        (VARIANT | {f"{GROUP}.judge": "frozen"}, "enable_resource_pool=true"),
        (URL | {f"+{GROUP}.atempts": "2"}, "no option atempts"),
        (URL | {f"+{GROUP}.attempts": "0"}, "must be positive"),
        (URL | {f"+{GROUP}.attempts": "many"}, "critic_r1.group_reward: "),
        (URL | {f"+{GROUP}.wait_seconds": "0"}, "wait_seconds must be positive"),
        (URL | {f"+{GROUP}.format_weight": "2"}, "format_weight"),
        (OWN | {f"{PROBE}.files": "gone.parquet"}, "gone.parquet"),
        (OWN | {f"{PROBE}.files": "x", f"{PROBE}.every": "0"}, "every, rows and max_tokens must be at least 1"),
        (OWN | {f"{PROBE}.files": "x", f"{PROBE}.min_agreement": "2"}, "min_agreement a share"),
        (OWN | {f"{PROBE}.files": "x", f"+{PROBE}.ever": "2"}, "critic_r1.probe has no option ever"),
        (URL | {"critic_r1.image_path": "stock"}, "set reward.num_workers=1"),
        (URL | {f"{ROLLOUT}.n": "1"}, "nothing to compare a response with"),
    ],
)
def test_settings_that_cannot_work_are_refused(run: Run, changed: dict[str, str], said: str) -> None:
    found = run.said(policy_critic.settings, changed, "fail")
    assert len(found) == 1
    assert said in found[0]


def test_a_probe_of_questions_is_refused(run: Run, data: tuple[str, str]) -> None:
    (found,) = run.said(policy_critic.settings, OWN | {f"{PROBE}.files": data[0]}, "fail")
    assert "no critic row in" in found


def test_a_policy_that_nobody_watches_is_a_warning(run: Run, data: tuple[str, str]) -> None:
    found = run.said(policy_critic.settings, OWN | {"data.train_files": data[0]}, "warn")
    assert ["go unnoticed" in found[0], "the critic is not trained" in found[1]] == [True, True]
    kept = OWN | {"data.train_files": f"[{data[0]},{data[1]}]", f"{PROBE}.files": data[1], f"{GROUP}.shown": "answer"}
    assert run.said(policy_critic.settings, kept, "warn") == []


def test_verdicts_and_prompts_that_do_not_fit_are_a_warning(run: Run, data: tuple[str, str]) -> None:
    kept = OWN | {"data.train_files": data[1], f"{PROBE}.files": data[1]}
    (found,) = run.said(policy_critic.settings, kept | {"data.max_response_length": "512"}, "warn")
    assert "ends a verdict after data.max_response_length=512 tokens, not 1024" in found
    (found,) = run.said(policy_critic.settings, kept | {f"{ROLLOUT}.max_model_len": "5000"}, "warn")
    assert "two responses and a verdict can take 5120 tokens" in found
    alone = kept | {f"{GROUP}.scheme": "pointwise", f"{ROLLOUT}.max_model_len": "3000"}
    (found,) = run.said(policy_critic.settings, alone, "warn")
    assert "a response and a verdict can take 3072 tokens" in found


def test_labels_as_a_reference_are_a_warning(run: Run) -> None:
    with FakeServer(prefers_larger) as server:
        changed = URL | {f"{GROUP}.url": server.url, f"{GROUP}.scheme": "margin"}
        (found,) = run.said(policy_critic.settings, changed, "warn")
        assert run.said(policy_critic.settings, changed | GREEDY, "warn") == []
    assert "labels are used" in found


def test_a_server_that_is_down_is_a_warning(run: Run) -> None:
    (found,) = run.said(policy_critic.settings, URL, "warn")
    assert "nothing answers at critic_r1.group_reward.url=http://127.0.0.1:9/v1" in found
    with FakeServer(prefers_larger) as server:
        assert run.said(policy_critic.settings, URL | {f"{GROUP}.url": server.url}, "warn") == []


def test_other_runs_are_not_looked_at(run: Run) -> None:
    assert list(policy_critic.settings(run.config({}))) == []
    assert policy_critic.settings in preflight.CHECKS


def test_every_refusal_was_made_by_a_test_above(request: pytest.FixtureRequest) -> None:
    every_refusal_was_made(request, "policy_critic.py")
