"""The command `fewstep adopt` in tests: asked, and what its lines say to the chain."""

from pathlib import Path

import pytest
from tiny_networks import SHAPE

from fewstep import command_line
from fewstep.foreign.assemble import config_of
from fewstep.foreign.found import DECLARATION
from fewstep.shards import write_shards
from stages.adopt import Config
from stages.settings import yaml_text


def ask(capsys, *words):
    """Run the command; return what it printed, and what it ended with."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["adopt", *map(str, words)])
    return capsys.readouterr().out, ended.value.code or None


def prepared(folder, data):
    write_shards(
        folder / "artifacts/prepare/held_out",
        len(next(iter(data.values()))),
        len(next(iter(data.values()))),
        lambda first, last: {name: each[first:last] for name, each in data.items()},
        facts={},
    )


def section(said):
    """What params.yaml would hold, as the project reads it: in YAML 1.1 and 1.2 alike."""
    return yaml_text.read(said.split("The lines for params.yaml:\n\n")[1], "the lines")


def chosen(settings, shape=SHAPE, **more):
    """The config of the model that the stage adopt makes of settings."""
    config = Config(**settings | more)
    said = {name: value for name in DECLARATION if (value := getattr(config, name)) is not None}
    found = config.format.options.look(Path(config.folder))
    return found, config_of(found, shape, said, classes=config.classes)
