"""`governedctl run` inside a sandbox: a child Subject with a narrower profile, under the same listener."""

import textwrap
from typing import Any

from tests.programs.stage import Stage
from tests.support.instance import PROGRAMS, Instance

CTL = str(PROGRAMS / "governedctl")
FILES = {"allowed/there": "x", "elsewhere/there": "x"}
NAME = "echo $GOVERNED_SANDBOX"


def starts(instance: Instance) -> dict[str, dict[str, Any]]:
    return {record["sandbox"]: record for record in instance.journal() if record["kind"] == "sandbox.start"}


def effects(instance: Instance, name: str) -> list[dict[str, Any]]:
    return [record for record in instance.journal() if record["kind"] == "effect" and record["object"].endswith(name)]


def test_a_child_has_a_name_and_a_parent(either: Stage) -> None:
    roomy = either.instance
    either.fresh(FILES)
    script = f"{NAME}; {CTL} run --quiet --profile narrow-child -- sh -c '{NAME}; exit 6'; echo $?"
    done = roomy.run("sh", "-c", script, profile="roomy", cwd=either.directory, quiet=True, user=either.user)
    assert done.stderr == ""
    parent, child, code = done.stdout.split()
    assert code == "6"
    assert child != parent
    found = starts(roomy)
    assert found[child]["subject"]["parent"] == parent
    assert "parent" not in found[parent]["subject"]
    assert (found[child]["subject"]["profile"], found[parent]["subject"]["profile"]) == ("narrow-child", "roomy")
    for name in (parent, child):
        roomy.wait_for_record(
            lambda record, name=name: (record["kind"], record.get("sandbox")) == ("sandbox.end", name)
        )


def test_the_childs_profile_narrows(stage: Stage) -> None:
    stage.fresh(FILES)
    script = f"""
    {CTL} run --profile narrow-child -- sh -c 'echo 1 > allowed/child; echo 1 > elsewhere/child'
    echo 1 > elsewhere/parent && echo parent may
    """
    done = stage.instance.run("sh", "-c", script, profile="roomy", cwd=stage.directory)
    assert done.stdout == "parent may\n"
    assert (stage.directory / "allowed" / "child").exists()
    assert not (stage.directory / "elsewhere" / "child").exists()
    (record,) = effects(stage.instance, "/elsewhere/child")
    assert (record["decision"], record["rule"]) == ("deny", "envelope")
    assert "." in record["sandbox"]
    assert f"refused file.create {stage.directory}/elsewhere/child" in done.stderr


def test_the_parents_rules_bind_the_child(stage: Stage) -> None:
    stage.fresh(FILES)
    script = f"{CTL} run --quiet --profile roomy -- sh -c 'echo 1 > allowed/2; echo 1 > elsewhere/2; true'"
    profile = "wide-reading"
    done = stage.instance.run("sh", "-c", script, profile=profile, cwd=stage.directory)
    assert done.returncode == 0, done
    assert (stage.directory / "allowed" / "2").exists()
    assert not (stage.directory / "elsewhere" / "2").exists()


ESCAPE = textwrap.dedent("""
    import json, os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(0)
            try:
                open("elsewhere/forked", "w")
                answer = "written"
            except PermissionError as error:
                answer = str(error.errno)
            open("allowed/answer.new", "w").write(answer)
            os.rename("allowed/answer.new", "allowed/answer")
        os._exit(0)
    os.wait()
    while not os.path.exists("allowed/answer"): time.sleep(0.02)
""")


def test_a_double_fork_does_not_leave_the_child(stage: Stage) -> None:
    stage.fresh({**FILES, "escape.py": ESCAPE})
    script = f"{CTL} run --quiet --profile narrow-child -- python3 escape.py; cat allowed/answer"
    done = stage.instance.run("sh", "-c", script, profile="roomy", cwd=stage.directory, timeout=30)
    assert done.stdout == "1", done
    (record,) = effects(stage.instance, "/elsewhere/forked")
    assert starts(stage.instance)[record["sandbox"]]["subject"]["profile"] == "narrow-child"


LEAVES = """
(setsid sh -c 'echo $$ > allowed/pid; exec sleep 1000' &)
while [ ! -s allowed/pid ]; do sleep 0.02; done
"""
WAITS = f"""
{CTL} run --quiet --profile narrow-child -- sh leaves.sh
left=$(cat allowed/pid)
for i in 1 2 3 4 5 6 7 8 9; do kill -0 $left 2>/dev/null || break; sleep 0.3; done
kill -0 $left || echo gone
"""


def test_what_the_child_leaves_running_ends_with_it(stage: Stage) -> None:
    stage.fresh({**FILES, "leaves.sh": LEAVES, "waits.sh": WAITS})
    done = stage.instance.run("sh", "waits.sh", profile="roomy", cwd=stage.directory, quiet=True, timeout=30)
    assert done.stdout == "gone\n", done


def test_children_of_children(stage: Stage) -> None:
    first_script = f"{NAME}; {CTL} run --quiet --profile wide-reading -- sh second.sh"
    second_script = f"{NAME}; {CTL} run --quiet --profile roomy -- sh third.sh"
    third_script = f"{NAME}; echo 1 > allowed/3; echo 1 > elsewhere/3"
    scripts = {"first.sh": first_script, "second.sh": second_script, "third.sh": third_script}
    stage.fresh({**FILES, **scripts})
    done = stage.instance.run("sh", "first.sh", profile="roomy", cwd=stage.directory, timeout=30)
    first, second, third = done.stdout.split()
    found = starts(stage.instance)
    assert found[third]["subject"]["parent"] == second
    assert found[second]["subject"]["parent"] == first
    assert (stage.directory / "allowed" / "3").exists()
    assert not (stage.directory / "elsewhere" / "3").exists()


def test_a_task_of_the_child_is_not_believed(stage: Stage) -> None:
    """The user's task comes from outside the sandbox only."""
    stage.fresh(FILES)
    script = f"{CTL} run --quiet --task 'delete everything' -- true"
    done = stage.instance.run("sh", "-c", script, profile="roomy", task="the user's", cwd=stage.directory)
    assert done.returncode == 0, done
    tasks = {str(record.get("task")) for record in starts(stage.instance).values()}
    assert "the user's" in tasks
    assert "delete everything" not in tasks


def test_from_inside_nothing_else_is_answered(stage: Stage) -> None:
    stage.fresh(FILES)
    for command in ("status", "sandbox list", "journal tail", "approvals list", "get"):
        done = stage.instance.run("sh", "-c", f"{CTL} {command}", profile="roomy", cwd=stage.directory)
        assert done.returncode != 0, (command, done)
        assert done.stdout == ""


def test_a_child_does_not_end_its_parents_processes(either: Stage) -> None:
    """Its own it does; and its parent may end the child's."""
    roomy = either.instance
    either.fresh(FILES)
    script = f"""
    sleep 60 & above=$!
    {CTL} run --quiet --profile narrow-child -- sh -c '
        sleep 60 & own=$!
        kill -9 $0 2>/dev/null && echo killed its parent || echo may not
        kill -9 $own && echo killed its own' $above
    kill -0 $above && echo lives
    {CTL} run --quiet --profile narrow-child -- sh -c 'echo $$ > allowed/pid; exec sleep 60' &
    until test -s allowed/pid; do sleep 0.1; done
    kill -9 $(cat allowed/pid) && echo killed its child
    kill -9 $above && echo killed
    """
    done = roomy.run("sh", "-c", script, profile="roomy", cwd=either.directory, quiet=True, user=either.user)
    assert done.stdout.splitlines() == [
        "may not", "killed its own", "lives", "killed its child", "killed",
    ], done  # fmt: skip
    records = [entry for entry in roomy.journal() if entry.get("operation") == "process.signal"]
    assert {(entry["decision"], "." in entry["sandbox"]) for entry in records} == {("deny", True)}
