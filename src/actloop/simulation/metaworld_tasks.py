"""The fifty tasks of Meta-World as instructions: what a person would say, our wording, Meta-World has none."""

from actloop.contracts import Task

EASY = {
    "button-press",
    "button-press-topdown",
    "coffee-button",
    "door-close",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "handle-press",
    "plate-slide",
    "reach",
    "window-close",
    "window-open",
}

INSTRUCTIONS: dict[str, tuple[str, str]] = {  # name: (skill, instruction)
    "assembly": ("assemble", "pick up the ring and put it on the peg"),
    "basketball": ("throw", "drop the basketball into the hoop"),
    "bin-picking": ("pick", "move the cube from one bin to the other"),
    "box-close": ("box", "put the lid on the box"),
    "button-press": ("button", "push the button on the front of the box"),
    "button-press-topdown": ("button", "press the button from above"),
    "button-press-topdown-wall": ("button", "press the button behind the wall from above"),
    "button-press-wall": ("button", "reach round the wall and push the button"),
    "coffee-button": ("coffee", "press the button of the coffee machine"),
    "coffee-pull": ("coffee", "pull the mug away from the coffee machine"),
    "coffee-push": ("coffee", "push the mug under the coffee machine"),
    "dial-turn": ("dial", "turn the dial"),
    "disassemble": ("assemble", "take the ring off the peg"),
    "door-close": ("door", "close the door"),
    "door-lock": ("door", "lock the door"),
    "door-open": ("door", "open the door"),
    "door-unlock": ("door", "unlock the door"),
    "drawer-close": ("drawer", "close the drawer"),
    "drawer-open": ("drawer", "open the drawer"),
    "faucet-close": ("faucet", "turn the faucet off"),
    "faucet-open": ("faucet", "turn the faucet on"),
    "hammer": ("hammer", "pick up the hammer and drive the nail in"),
    "hand-insert": ("insert", "put the hand into the hole"),
    "handle-press": ("handle", "press the handle down"),
    "handle-press-side": ("handle", "press the handle down from the side"),
    "handle-pull": ("handle", "pull the handle up"),
    "handle-pull-side": ("handle", "pull the handle up from the side"),
    "lever-pull": ("lever", "pull the lever up"),
    "peg-insert-side": ("peg", "put the peg into the hole in the side of the block"),
    "peg-unplug-side": ("peg", "pull the peg out of the hole"),
    "pick-out-of-hole": ("pick", "lift the puck out of the hole to the marker"),
    "pick-place": ("pick", "pick up the puck and hold it at the marker"),
    "pick-place-wall": ("pick", "lift the puck over the wall to the marker"),
    "plate-slide": ("plate", "slide the plate forward into the cabinet"),
    "plate-slide-back": ("plate", "slide the plate back out of the cabinet"),
    "plate-slide-back-side": ("plate", "slide the plate sideways out of the cabinet"),
    "plate-slide-side": ("plate", "slide the plate sideways into the cabinet"),
    "push": ("push", "push the puck to the marker"),
    "push-back": ("push", "pull the puck back to the marker"),
    "push-wall": ("push", "push the puck round the wall to the marker"),
    "reach": ("reach", "move the hand to the marker"),
    "reach-wall": ("reach", "move the hand over the wall to the marker"),
    "shelf-place": ("pick", "put the puck on the shelf"),
    "soccer": ("push", "push the ball into the goal"),
    "stick-pull": ("stick", "put the stick through the handle of the thermos and pull it to the marker"),
    "stick-push": ("stick", "take the stick and push the thermos with it to the marker"),
    "sweep": ("sweep", "sweep the puck off the table"),
    "sweep-into": ("sweep", "sweep the puck into the hole"),
    "window-close": ("window", "close the window"),
    "window-open": ("window", "open the window"),
}


def all_tasks(time_limit: float) -> dict[str, Task]:
    """The fifty tasks by name, with `time_limit` in seconds."""
    return {
        name: Task(
            name=name,
            instruction=instruction,
            time_limit=time_limit,
            skill=skill,
            group="easy" if name in EASY else "hard",
        )
        for name, (skill, instruction) in INSTRUCTIONS.items()
    }
