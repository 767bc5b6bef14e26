"""Stand-ins for the meshes and photographs that SIMPLER's Bridge tasks load: boxes of the published sizes.

    python tests/simpler_assets.py FOLDER      then MS_ASSET_DIR=FOLDER, or --world-options assets=FOLDER

The arm has the joints, limits and masses of Interbotix' WidowX 250 S. Nothing looks as in SIMPLER, so nothing measured
in it is a SIMPLER result; it is there to run ManiSkill's own tasks where the real files are not at hand.
"""

import json
import sys
from pathlib import Path

Vector = tuple[float, float, float]
Box = tuple[Vector, Vector]  # middle and sides, metres

OFFSET = (2.0634, 2.8313, 0.0)  # where ManiSkill puts the origin of the scene's file
TABLE_TOP = 0.866
GREY = (0.35, 0.35, 0.38)

# Link: (mass in kg, boxes); joints: (name, kind, parent, child, xyz, rpy, axis, limits in rad or m).
LINKS: dict[str, tuple[float, tuple[Box, ...]]] = {
    "base_link": (0.54, (((-0.03, 0.0, 0.03), (0.16, 0.12, 0.06)),)),
    "shoulder_link": (0.48, (((0.0, 0.0, 0.01), (0.07, 0.07, 0.05)),)),
    "upper_arm_link": (0.43, (((0.0, 0.0, 0.12), (0.05, 0.05, 0.2)), ((0.025, 0.0, 0.25), (0.08, 0.05, 0.04)))),
    "upper_forearm_link": (0.23, (((0.09, 0.0, 0.0), (0.14, 0.04, 0.04)),)),
    "lower_forearm_link": (0.22, (((0.02, 0.0, 0.0), (0.06, 0.05, 0.05)),)),
    "wrist_link": (0.085, (((0.03, 0.0, 0.0), (0.05, 0.05, 0.04)),)),
    "gripper_link": (0.073, (((0.02, 0.0, 0.0), (0.03, 0.06, 0.05)),)),
    "ee_arm_link": (0.001, ()),
    "gripper_bar_link": (0.034, (((-0.005, 0.0, 0.0), (0.01, 0.11, 0.03)),)),
    "fingers_link": (0.001, ()),
    "left_finger_link": (0.016, (((0.018, -0.0025, 0.0), (0.046, 0.015, 0.02)),)),
    "right_finger_link": (0.016, (((0.018, 0.0025, 0.0), (0.046, 0.015, 0.02)),)),
    "ee_gripper_link": (0.001, ()),
}
NONE = (0.0, 0.0, 0.0)
PI = 3.141592653589793
JOINTS = (
    ("waist", "revolute", "base_link", "shoulder_link", (0.0, 0.0, 0.0716), NONE, "0 0 1", (-2 * PI, 2 * PI)),
    ("shoulder", "revolute", "shoulder_link", "upper_arm_link", (0.0, 0.0, 0.03865), NONE, "0 1 0", (-3.77, 3.98)),
    ("elbow", "revolute", "upper_arm_link", "upper_forearm_link", (0.04975, 0, 0.25), NONE, "0 1 0", (-3.21, 4.29)),
    (
        "forearm_roll",
        "revolute",
        "upper_forearm_link",
        "lower_forearm_link",
        (0.175, 0, 0),
        NONE,
        "1 0 0",
        (-2 * PI, 2 * PI),
    ),
    ("wrist_angle", "revolute", "lower_forearm_link", "wrist_link", (0.075, 0, 0), NONE, "0 1 0", (-4.3, 3.49)),
    ("wrist_rotate", "revolute", "wrist_link", "gripper_link", (0.065, 0, 0), NONE, "1 0 0", (-2 * PI, 2 * PI)),
    ("ee_arm", "fixed", "gripper_link", "ee_arm_link", (0.043, 0, 0), NONE, "1 0 0", None),
    ("gripper_bar", "fixed", "ee_arm_link", "gripper_bar_link", NONE, NONE, "1 0 0", None),
    ("ee_bar", "fixed", "gripper_bar_link", "fingers_link", (0.023, 0, 0), NONE, "1 0 0", None),
    ("left_finger", "prismatic", "fingers_link", "left_finger_link", NONE, NONE, "0 1 0", (0.015, 0.037)),
    ("right_finger", "prismatic", "fingers_link", "right_finger_link", NONE, NONE, "0 -1 0", (0.015, 0.037)),
    ("ee_gripper", "fixed", "fingers_link", "ee_gripper_link", (0.027575, 0, 0), NONE, "1 0 0", None),
)
# Model: (half sides in m that the success test counts with, density, colour, boxes).
MODELS: dict[str, tuple[Vector, float, Vector, tuple[Box, ...]]] = {
    "bridge_carrot_generated_modified": (
        (0.0575, 0.016, 0.016),
        700,
        (0.9, 0.45, 0.1),
        ((NONE, (0.115, 0.032, 0.032)),),
    ),
    "bridge_plate_objaverse_larger": ((0.06, 0.06, 0.003), 1000, (0.9, 0.9, 0.9), ((NONE, (0.12, 0.12, 0.006)),)),
    "bridge_spoon_generated_modified": (
        (0.07, 0.0173, 0.00885),
        1200,
        (0.1, 0.5, 0.2),
        ((NONE, (0.14, 0.02, 0.0177)),),
    ),
    "table_cloth_generated_shorter": ((0.06, 0.06, 0.002), 500, (0.4, 0.6, 0.8), ((NONE, (0.12, 0.12, 0.004)),)),
    "eggplant": ((0.037, 0.018, 0.018), 400, (0.35, 0.1, 0.4), ((NONE, (0.074, 0.036, 0.036)),)),
    "dummy_sink_target_plane": ((0.05, 0.08, 0.002), 1000, (0.9, 0.8, 0.1), ((NONE, (0.1, 0.16, 0.004)),)),
    "sink": (
        (0.2, 0.25, 0.04),
        1000,
        (0.6, 0.6, 0.65),
        (
            ((0.0, 0.0, -0.01), (0.4, 0.5, 0.02)),
            ((0.2, 0.0, 0.03), (0.02, 0.5, 0.06)),
            ((-0.2, 0.0, 0.03), (0.02, 0.5, 0.06)),
            ((0.0, 0.25, 0.03), (0.4, 0.02, 0.06)),
            ((0.0, -0.25, 0.03), (0.4, 0.02, 0.06)),
        ),
    ),
}
BAKED = {"baked_green_cube_3cm": (0.1, 0.7, 0.2), "baked_yellow_cube_3cm": (0.9, 0.8, 0.1)}
CUBE = ((NONE, (0.03, 0.03, 0.03)),)


def write_stand_ins(folder: Path) -> Path:
    """Write the whole tree below `folder`, which is then what MS_ASSET_DIR names; returns it."""
    tasks = folder / "data" / "tasks" / "bridge_v2_real2sim_dataset"
    robot = folder / "data" / "robots" / "widowx"
    robot.mkdir(parents=True, exist_ok=True)
    (robot / "wx250s.urdf").write_text(_urdf(), encoding="utf-8")
    plain = {name: (half, density) for name, (half, density, _, _) in MODELS.items()}
    _write_sizes(tasks / "custom" / "info_bridge_custom_v0.json", plain)
    cubes = dict.fromkeys(BAKED, ((0.015, 0.015, 0.015), 1000.0))
    _write_sizes(tasks / "custom" / "info_bridge_custom_baked_tex_v0.json", cubes)
    for name, (_, _, colour, boxes) in MODELS.items():
        _write_model(tasks / "custom" / "models" / name, boxes, colour)
    for name, colour in BAKED.items():
        _write_model(tasks / "custom" / "models" / name, CUBE, colour)
    _write_stages(tasks / "stages")
    _write_photographs(tasks / "real_inpainting")
    return folder


def _urdf() -> str:
    parts = ['<robot name="wx250s">']
    for name, (mass, boxes) in LINKS.items():
        parts.append(f'<link name="{name}">')
        for middle, sides in boxes:
            shape = f'<origin xyz="{_words(middle)}"/><geometry><box size="{_words(sides)}"/></geometry>'
            colour = f'<material name="grey"><color rgba="{_words(GREY)} 1"/></material>'
            parts.append(f"<visual>{shape}{colour}</visual><collision>{shape}</collision>")
        inertia = max(mass * 1e-3, 1e-5)
        moments = f'ixx="{inertia}" ixy="0" ixz="0" iyy="{inertia}" iyz="0" izz="{inertia}"'
        parts.append(f'<inertial><mass value="{mass}"/><inertia {moments}/></inertial></link>')
    for name, kind, parent, child, xyz, rpy, axis, limits in JOINTS:
        parts.append(f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>')
        parts.append(f'<origin xyz="{_words(xyz)}" rpy="{_words(rpy)}"/><axis xyz="{axis}"/>')
        if limits is not None:
            parts.append(f'<limit effort="100" velocity="3.14" lower="{limits[0]}" upper="{limits[1]}"/>')
        if name == "right_finger":
            parts.append('<mimic joint="left_finger" multiplier="1" offset="0"/>')
        parts.append("</joint>")
    return "\n".join([*parts, "</robot>"])


def _words(numbers: Vector) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _write_sizes(path: Path, models: dict[str, tuple[Vector, float]]) -> None:
    sizes = {
        name: {"bbox": {"min": [-side for side in half], "max": list(half)}, "scales": [1.0], "density": density}
        for name, (half, density) in models.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def _write_model(folder: Path, boxes: tuple[Box, ...], colour: Vector) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("collision", "textured"):
        (folder / f"{name}.obj").write_text(_obj(boxes, name), encoding="utf-8")
        (folder / f"{name}.mtl").write_text(f"newmtl plain\nKd {_words(colour)}\n", encoding="utf-8")


def _obj(boxes: tuple[Box, ...], name: str) -> str:
    """Boxes as a Wavefront file, each a part of its own, faces outwards."""
    lines = [f"mtllib {name}.mtl", "usemtl plain"]
    faces = ("1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4")
    for number, (middle, sides) in enumerate(boxes):
        lines.append(f"o box{number}")
        for corner in range(8):
            signs = [1 if corner >> bit & 1 else -1 for bit in (2, 1, 0)]
            place = [at + sign * side / 2 for at, sign, side in zip(middle, signs, sides, strict=True)]
            lines.append(f"v {_words((place[0], place[1], place[2]))}")
        for face in faces:
            lines.append("f " + " ".join(str(int(vertex) + 8 * number) for vertex in face.split()))
    return "\n".join(lines) + "\n"


def _write_stages(folder: Path) -> None:
    """A table, for the tasks on one; and the floor under the sink. Files have y upwards."""
    import trimesh

    folder.mkdir(parents=True, exist_ok=True)
    for name, top in (("bridge_table_1_v1.glb", TABLE_TOP), ("bridge_table_1_v2.glb", 0.84)):
        middle = (-0.2 - OFFSET[0], 0.0 - OFFSET[1], top - 0.02)
        box = trimesh.creation.box(extents=(1.2, 0.04, 1.2))
        box.apply_translation((middle[0], middle[2], -middle[1]))
        box.visual = trimesh.visual.TextureVisuals(
            material=trimesh.visual.material.PBRMaterial(baseColorFactor=[150, 120, 90, 255])
        )
        box.export(folder / name)


def _write_photographs(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:480, 0:640]
    for name, base in (("bridge_real_eval_1.png", (150, 120, 90)), ("bridge_sink.png", (140, 140, 150))):
        shade = 20 * np.sin(columns / 40.0) + rows / 24.0
        picture = np.clip(np.array(base) + shade[..., None], 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / name)


if __name__ == "__main__":
    print(write_stand_ins(Path(sys.argv[1])))
