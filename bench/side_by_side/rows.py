"""The rows of the table: what is measured, and how its samples read."""

from dataclasses import dataclass

OUTPUT_MB = 100
COMMANDS_AT_A_TIME = 16
CREATES_AT_A_TIME = 8


@dataclass(frozen=True)
class Row:
    """In `ms` and `s` less is better, in `/s` and `MB/s` more."""

    name: str
    unit: str
    title: str

    @property
    def less_is_better(self) -> bool:
        return self.unit in ("ms", "s")


ROWS = (
    Row("nothing", "ms", "an empty request"),
    Row("create", "ms", "create → running"),
    Row("get", "ms", "get a container"),
    Row("stop", "ms", "stop"),
    Row("start", "ms", "start again"),
    Row("delete", "ms", "delete a running container"),
    Row("create_many", "/s", f"creates, {CREATES_AT_A_TIME} at a time"),
    Row("command", "ms", "command `true`, submit → result, after a pause of 50 ms"),
    Row("command_row", "ms", "… of 100, each sent when the one before is over"),
    Row("command_many", "/s", f"commands, {COMMANDS_AT_A_TIME} at a time"),
    Row("output", "MB/s", f"a command's output of {OUTPUT_MB} MB, from submit to the last byte"),
    Row("print", "MB/s", "… of which: until the command has ended and all is kept"),
    Row("download", "MB/s", "… of which: the download"),
    Row("commit", "ms", "one durable commit"),
    Row("up", "s", "`deploy/local/up`, second start"),
)
