"""git, as people use it."""

from tests.programs.stage import Stage

SETTINGS = """export GIT_AUTHOR_DATE='2001-02-03 04:05:06 +0000' GIT_COMMITTER_DATE='2001-02-03 04:05:06 +0000'
export GIT_CONFIG_GLOBAL=$PWD/gitconfig
git config --global user.name N; git config --global user.email n@example.invalid
git config --global init.defaultBranch main; git config --global gc.auto 0
"""

REPOSITORY = (
    SETTINGS
    + """set -e
git init one && cd one
echo first > file && mkdir sub && echo second > sub/file && git add .
git commit -m 'the first' && git status --short
echo more >> file && git commit -qam 'the second' && git log --oneline && git diff HEAD~1 --stat
git checkout -q -b side && git mv file moved && git commit -qm moved
git checkout -q main && echo x > x && git add x && git commit -qm x && git merge -q -m merged side
git rebase -q side || echo conflict
git tag -a v1 -m 'a tag' && git stash list && git branch -d side && git log --oneline --graph --all
git gc --quiet && git fsck && git count-objects && git archive v1 | tar -tf -
cd .. && git clone -q one two && git -C two log --oneline && git clone --no-local one three 2>&1 | head -n 1
cd two && echo y > y && git add y && git commit -qm y && git push -q origin HEAD:other && git -C ../one branch
git fetch -q && git worktree add -q ../tree && ls ../tree && git worktree remove ../tree && git clean -xfdq && git gc -q
git submodule status; git bisect start -q 2>&1; git bisect reset 2>&1; git reflog | wc -l
"""
)


def test_git(either: Stage) -> None:
    # What holds times of files: the index; and the names of packs depend on threads.
    changing = r"(^|/)(index|.*\.pack|.*\.idx|.*\.rev|logs/.*|packs|commit-graph)$"
    done = either.same("bash", "-c", REPOSITORY, changing=changing)
    assert done.returncode == 0, done
    assert "main\n  other\n" in done.stdout
    assert "conflict" not in done.stdout


def test_a_hook_runs_and_its_failure_is_seen(stage: Stage) -> None:
    script = (
        SETTINGS
        + "git init -q r && cd r && cp ../hook .git/hooks/pre-commit && echo 1 > f && git add f && git commit -m x"
    )
    done = stage.same(
        "sh", "-c", script, files={"hook": "#!/bin/sh\necho from the hook >&2\nexit 1\n"}, changing="index$"
    )
    assert (done.returncode, done.stderr) == (1, "from the hook\n")
