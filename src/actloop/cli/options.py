"""Every option of the command line, described once, so that all commands read alike."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

World = Annotated[str, arg(metavar="NAME", help="World to use; see `actloop worlds`.")]
WorldArgument = Annotated[
    Positional[str], arg(metavar="[NAME]", help="World to describe.", help_behavior_hint="(default: list them all)")
]
Body = Annotated[
    str, arg(metavar="NAME", help="Robot body, where the world has several.", help_behavior_hint="(default: its first)")
]
WorldOptions = Annotated[
    tuple[str, ...],
    arg(
        metavar="NAME=VALUE ...",
        help="Further options of the world's constructor, such as image_size=96.",
        help_behavior_hint="(default: none)",
    ),
]
Tasks = Annotated[
    tuple[str, ...],
    arg(metavar="NAME ...", help="Tasks by name, skill or group.", help_behavior_hint="(default: all of the world)"),
]
Episodes = Annotated[int, arg(metavar="N", help="Episodes per task.")]
Seed = Annotated[int, arg(metavar="N", help="Seed of the first episode; the others count up from it.")]
Workers = Annotated[int, arg(metavar="N", help="Processes to use; changes the speed and nothing else.")]
Batch = Annotated[
    int,
    arg(
        metavar="N",
        help="Answer N episodes in one pass. Decides the last bits: one worker, many and a cluster agree for one N.",
    ),
]
Ray = Annotated[
    str,
    arg(
        metavar="ADDRESS",
        help="Run the episodes on a Ray cluster; `local` starts one on this machine.",
        help_behavior_hint="(default: this machine's processes)",
    ),
]
OutFolder = Annotated[Path, arg(metavar="FOLDER", help="Folder to write.")]
OutFile = Annotated[Path, arg(metavar="FILE", help="File to write.")]
Json = Annotated[bool, arg(help="Print JSON instead of text.", help_behavior_hint="")]
DatasetArgument = Annotated[Positional[Path], arg(metavar="FOLDER", help="LeRobot v3 dataset to read.")]
RunArgument = Annotated[Positional[Path], arg(metavar="FOLDER", help="Folder that `actloop eval` or `compare` wrote.")]
Weights = Annotated[
    Positional[Path],
    arg(metavar="WEIGHTS", help="Released weights: a .pt payload, a safetensors file, or a folder of shards."),
]
VideoCodec = Annotated[Path, arg(metavar="FILE", help="The Wan2.2 video codec, such as Wan2.2_VAE.pth.")]
Prompts = Annotated[Path, arg(metavar="FILE", help="Encoded instructions, from `actloop prompts`.")]
Statistics = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="Statistics of the normalisation.",
        help_behavior_hint="(default: NAME_dataset_stats.json beside the weights)",
    ),
]
Release = Annotated[
    str | None,
    arg(metavar="NAME", help="Benchmark: `libero` or `robotwin`.", help_behavior_hint="(known from a released name)"),
]
Variant = Annotated[
    str | None,
    arg(metavar="NAME", help="Variant, such as `fast`.", help_behavior_hint="(known from a released name)"),
]
Shift = Annotated[
    float | None,
    arg(metavar="S", help="Timestep shift to sample with.", help_behavior_hint="(known from a released name)"),
]
Dtype = Annotated[Literal["bfloat16", "float32"], arg(help="Number format of the weights.")]
Encoder = Annotated[
    Positional[Path],
    arg(metavar="ENCODER", help="UMT5-XXL: models_t5_umt5-xxl-enc-bf16.pth, or a transformers folder."),
]
Tokenizer = Annotated[Path, arg(metavar="FOLDER", help="The tokenizer's folder (google/umt5-xxl).")]
Told = Annotated[
    tuple[str, ...],
    arg(metavar="TEXT ...", help="Instructions to encode.", help_behavior_hint="(default: none)"),
]
ToldIn = Annotated[
    Path | None,
    arg(metavar="FOLDER", help="Also encode every instruction of this dataset.", help_behavior_hint="(optional)"),
]

ParityModel = Annotated[
    Positional[str], arg(metavar="MODEL", help="Model to compare: `fastwam`, `dreamzero`, `openvla`.")
]
ParityFolder = Annotated[Positional[Path], arg(metavar="FOLDER", help="Folder of reference numbers and weights.")]
StackFile = Annotated[Positional[Path], arg(metavar="STACK", help="Stack file: the world and the layers, as TOML.")]
StackEpisodes = Annotated[int, arg(metavar="N", help="Episodes of every task, on consecutive seeds.")]
StackClock = Annotated[
    Literal["virtual", "wall"] | None,
    arg(
        metavar="{virtual,wall}",
        help="`virtual`: thinking takes its declared time. `wall`: real time.",
        help_behavior_hint="(default: wall on a robot, virtual elsewhere)",
    ),
]
StackOut = Annotated[
    Path | None, arg(metavar="FOLDER", help="Folder of logs and results.", help_behavior_hint="(default: under runs/)")
]
ServedLayer = Annotated[
    Positional[Literal["action", "check", "foresight", "semantic"]], arg(metavar="LAYER", help="Layer to serve.")
]
Host = Annotated[str, arg(metavar="ADDRESS", help="Address to listen on; beyond this machine a token is needed.")]
Port = Annotated[int, arg(metavar="N", help="Port to listen on; 0 for any that is free.")]
TokenFile = Annotated[
    Path | None, arg(metavar="FILE", help="Holds what clients must show.", help_behavior_hint="(optional)")
]
Log = Annotated[Positional[Path], arg(metavar="LOG", help="Event log, or the folder of a run.")]
LoggedEpisode = Annotated[
    str, arg(metavar="NAME", help="Which episode of a run.", help_behavior_hint="(default: the only one)")
]
Drawing = Annotated[
    Path | None,
    arg(metavar="FILE", help="HTML page, PNG or SVG to write.", help_behavior_hint="(default: beside the log)"),
]
RerunFile = Annotated[
    Path | None, arg(metavar="FILE", help="Recording for Rerun (.rrd) to write.", help_behavior_hint="(optional)")
]
Rates = Annotated[tuple[float, ...], arg(metavar="HZ ...", help="Control rates.")]
Seconds = Annotated[float, arg(metavar="S", help="Seconds of each measurement.")]
ThinkMs = Annotated[float, arg(metavar="MS", help="How long the model beside the loop computes for an answer.")]
SpinUs = Annotated[float, arg(metavar="US", help="Microseconds before a tick that are waited for without sleeping.")]
Priority = Annotated[
    int, arg(metavar="N", help="Real-time priority of the ticking process, where permitted; 0 for none.")
]
Size = Annotated[str, arg(metavar="NAME", help="`tiny`, `small`, `full` (LIBERO, 6 B) or `robotwin`.")]
Device = Annotated[str, arg(metavar="NAME", help="`cpu`, `cuda`, `cuda:1`, ...")]
BenchDtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    arg(help="Number format.", help_behavior_hint="(default: float32 on a CPU, bfloat16 elsewhere)"),
]
BatchSizes = Annotated[tuple[int, ...], arg(metavar="N ...", help="Observations at a time.")]
Repeats = Annotated[int, arg(metavar="N", help="Timed runs of each stage, after two to warm up.")]
Compiled = Annotated[bool, arg(help="Also time it compiled; on CUDA as CUDA graphs.", help_behavior_hint="")]
Threads = Annotated[
    int | None, arg(metavar="N", help="CPU threads of the arithmetic.", help_behavior_hint="(default: torch's own)")
]
Layers = Annotated[
    int | None,
    arg(
        metavar="N",
        help="Cut the network to N layers, to time full widths on a small machine; said in the output.",
        help_behavior_hint="(default: all)",
    ),
]
WithText = Annotated[bool, arg(help="Also time the text encoder, which no robot needs.", help_behavior_hint="")]
MemoryOnly = Annotated[bool, arg(help="Only add up the memory that the size takes.", help_behavior_hint="")]
BenchVariants = Annotated[
    tuple[str, ...], arg(metavar="NAME ...", help="Variants to time.", help_behavior_hint="(default: fast, joint, idm)")
]

OpenVLASize = Annotated[str, arg(metavar="NAME", help="`tiny` or `7b`.")]

ActionsOf = Annotated[Positional[Path], arg(metavar="DATASET", help="LeRobot v3 dataset, decoded one, or RLDS folder.")]
ChunkHorizon = Annotated[int, arg(metavar="N", help="Actions in a chunk.")]
FastScales = Annotated[tuple[float, ...], arg(metavar="GAMMA ...", help="Scales of FAST: higher is finer.")]
BinBounds = Annotated[
    Literal["data", "limits"], arg(help="Bounds of uniform bins: range of the data, or limits of the robot.")
]
FastVocabulary = Annotated[int, arg(metavar="N", help="Tokens of FAST, fitted on the dataset.")]
EpisodesRead = Annotated[int, arg(metavar="N", help="Episodes to read at most, evenly spread.")]
Split = Annotated[str, arg(metavar="NAME", help="Split of an RLDS dataset.")]
RldsFolder = Annotated[
    Positional[Path], arg(metavar="FOLDER", help="RLDS dataset: features.json, dataset_info.json, records.")
]
RldsRecipe = Annotated[
    str,
    arg(
        metavar="NAME",
        help="How an RLDS dataset's actions are standardised; `as-recorded` leaves them.",
        help_behavior_hint="(default: by the dataset's name)",
    ),
]
ControlHz = Annotated[
    float | None, arg(metavar="HZ", help="Rate of the robot.", help_behavior_hint="(default: the recipe's)")
]
ReleasedRelabel = Annotated[
    bool, arg(help="Relabel as the released code does, jumps of angles at 180 degrees included.", help_behavior_hint="")
]
Cameras = Annotated[
    tuple[str, ...],
    arg(metavar="NAME ...", help="Cameras to keep.", help_behavior_hint="(default: all that the recipe names)"),
]
EpisodesTaken = Annotated[
    int | None, arg(metavar="N", help="Only the first N episodes.", help_behavior_hint="(default: all)")
]

ReleasedFolder = Annotated[
    Positional[Path], arg(metavar="FOLDER", help="Released folder in the Hugging Face layout, or a Prismatic .pt.")
]
UnnormKey = Annotated[
    str | None,
    arg(metavar="NAME", help="Dataset in whose scale it acts.", help_behavior_hint="(default: the only one there is)"),
]
BodyFile = Annotated[
    Path | None, arg(metavar="FILE", help="The robot, as JSON.", help_behavior_hint="(default: known by the key)")
]
Gripper = Annotated[str, arg(metavar="NAME", help="Convention of the robot's gripper, for a robot given as JSON.")]
StatisticsFile = Annotated[
    Path | None,
    arg(metavar="FILE", help="Statistics of the actions.", help_behavior_hint="(default: those in the folder)"),
]
TokenizerFolder = Annotated[
    Path | None, arg(metavar="FOLDER", help="The tokenizer's folder.", help_behavior_hint="(default: the weights')")
]
Adapter = Annotated[
    Path | None, arg(metavar="FOLDER", help="LoRA adapter to merge.", help_behavior_hint="(default: none)")
]
StatisticsFolder = Annotated[
    Path | None, arg(metavar="FOLDER", help="Where to write.", help_behavior_hint="(default: into the dataset)")
]
StatisticsKey = Annotated[
    str, arg(metavar="NAME", help="Key of the statistics.", help_behavior_hint="(default: name of the dataset)")
]
LanguageModel = Annotated[
    Positional[Path], arg(metavar="MODEL", help="File of ours, or folder of a Hugging Face model.")
]
Question = Annotated[Positional[str], arg(metavar="QUESTION", help="What to ask.")]
Images = Annotated[tuple[Path, ...], arg(metavar="FILE ...", help="Pictures, in the order of the cameras' names.")]
MaxTokens = Annotated[int, arg(metavar="N", help="Tokens of the answer at most.")]

NoiseShare = Annotated[
    float,
    arg(metavar="SHARE", help="Share of the episodes with noisy actions, so that recovery is in the data."),
]
AstrayShare = Annotated[
    float,
    arg(
        metavar="SHARE",
        help="Share of the episodes in which the arm is told something random for a while, so that a world model "
        "learns what commands do.",
    ),
]
DisturbShare = Annotated[
    float, arg(metavar="SHARE", help="Share of the episodes that the world disturbs once, such as by moving an object.")
]

Preset = Annotated[Positional[str], arg(metavar="PRESET", help="What to train, such as `tabletop-fast`.")]
TrainingData = Annotated[
    Path, arg(metavar="FOLDER", help="LeRobot v3 dataset; of a VLM the questions, recorded where there are none.")
]
Init = Annotated[
    Path | None,
    arg(metavar="VLM", help="Vision-language model to start from.", help_behavior_hint="(default: from nothing)"),
]
VideoOf = Annotated[
    tuple[Path, ...],
    arg(
        metavar="FOLDER ...",
        help="Recordings of other bodies: DreamZero learns from their video alone.",
        help_behavior_hint="(default: none)",
    ),
]
Questions = Annotated[
    Path | None,
    arg(metavar="FOLDER", help="Questions to co-fine-tune RT-2 on.", help_behavior_hint="(default: robot data alone)"),
]
Steps = Annotated[int | None, arg(metavar="N", help="Training steps.", help_behavior_hint="(default: the preset's)")]
TrainSeed = Annotated[int, arg(metavar="N", help="Seed of the weights, the batches and the noise.")]
Resume = Annotated[bool, arg(help="Go on from the last saved step of the same training.", help_behavior_hint="")]
Recipe = Annotated[
    Positional[Path], arg(metavar="RECIPE", help="TOML file: the policy, the dataset, its fields, how to train.")
]

Arms = Annotated[
    tuple[str, ...],
    arg(
        metavar="NAME[=PATH] ...",
        help="What to compare: names of shipped ones, NAME=PATH of a checkpoint or a stack, or NAME=module:function.",
        help_behavior_hint="(default: all that ship for the world)",
    ),
]
Latency = Annotated[
    str,
    arg(
        metavar="LATENCY",
        help="How long a model thinks: `measured` (on this machine), milliseconds, the name of a published figure,"
        " `published` (each variant its own), or `paused` (the world waits).",
    ),
]
Judged = Annotated[
    Positional[str],
    arg(
        metavar="POLICY",
        help="What to judge: the name of one that ships, a checkpoint, a stack file, or module:function.",
    ),
]
Disturb = Annotated[
    tuple[str, ...],
    arg(
        metavar="[NAME=]FAULT[,FAULT] ...",
        help="Further conditions, each disturbed, beside its undisturbed twin on the same seeds: `displace@half-way`.",
        help_behavior_hint="(default: none)",
    ),
]
Rescue = Annotated[
    Literal["none", "expert"],
    arg(help="Who takes over, for a while, where a human is asked for or limits have stopped the robot."),
]
RescueSeconds = Annotated[float, arg(metavar="S", help="Seconds after which a rescuer hands the robot back.")]
RescueAfter = Annotated[
    float | None,
    arg(
        metavar="SHARE",
        help="Also rescue when this share of a task's time limit has passed, as somebody would who watches.",
        help_behavior_hint="(default: only when asked)",
    ),
]
ForceLimit = Annotated[
    float | None,
    arg(
        metavar="NEWTONS",
        help="Count the episodes in which the robot touched anything harder than this.",
        help_behavior_hint="(default: no limit)",
    ),
]
UntilDecided = Annotated[
    bool,
    arg(help="Stop at the first seed at which a sequential test tells the two arms apart.", help_behavior_hint=""),
]
Sweep = Annotated[
    tuple[str, ...], arg(metavar="LATENCY ...", help="Further latencies, for the curve of success against latency.")
]
Clock = Annotated[
    Literal["virtual", "paused"],
    arg(help="`virtual`: the world moves while the model thinks. `paused`: it waits, as in most benchmarks."),
]
ExecuteHorizon = Annotated[
    int | None,
    arg(
        metavar="N",
        help="Actions run before the next chunk takes over; all of a chunk that has fewer.",
        help_behavior_hint="(default: as in the demo)",
    ),
]
Faults = Annotated[
    tuple[str, ...],
    arg(
        metavar="FAULT ...",
        help="What goes wrong in every episode: `displace@15-30`, `slip@grasp`, `freeze:front@20+10`.",
        help_behavior_hint="(default: nothing)",
    ),
]
Alpha = Annotated[
    float, arg(metavar="SHARE", help="Of the successful episodes, how many may raise an alarm: of calibrated checks.")
]
CalibrationEpisodes = Annotated[
    int, arg(metavar="N", help="Undisturbed episodes per task that a stack's checks are calibrated on, per condition.")
]
FailureCost = Annotated[
    float | None,
    arg(
        metavar="SECONDS",
        help="What a failed episode costs, in seconds of computing; the answer then weighs both.",
        help_behavior_hint="(optional)",
    ),
]
ComputeBudget = Annotated[
    float | None,
    arg(
        metavar="RATE",
        help="Seconds of computing per second of robot time that there are; arms above it are not taken.",
        help_behavior_hint="(optional)",
    ),
]
Videos = Annotated[int, arg(metavar="N", help="Episodes to film per policy and task.")]
Plot = Annotated[Path | None, arg(metavar="FILE", help="Also draw it, as PNG or SVG.", help_behavior_hint="(optional)")]
RobotData = Annotated[
    Positional[Path], arg(metavar="DATASET", help="LeRobot v3 dataset of the robot, or a decoded one.")
]
RobotLike = Annotated[
    str, arg(metavar="NAME|FILE", help="Declaration to measure: `droid`, `agibot`, `yam`, or a JSON file.")
]
BlockActions = Annotated[int, arg(metavar="N", help="Actions in a block, of the dataset's own body.")]
FrameTicks = Annotated[int, arg(metavar="N", help="Ticks from one video frame to the next, of the same.")]
Template = Annotated[str, arg(metavar="TEXT", help="Prompt around {instruction}, of the same.")]
DreamZeroSize = Annotated[str, arg(metavar="NAME", help="`tiny`, `small`, `5b` or `14b`.")]
DreamZeroMode = Annotated[
    str, arg(metavar="MODE", help="As `flash`, `4-steps`, `16-steps+reuse-8`, `released`.", help_behavior_hint="")
]
ValueFile = Annotated[
    str,
    arg(metavar="FILE", help="Value that ranks outcomes: a file, `shipped` (the world's, if one ships), or `none`."),
]
Moments = Annotated[int, arg(metavar="N", help="Moments per episode at which futures are imagined, at most.")]
Candidates = Annotated[int, arg(metavar="N", help="Chunks tried at each moment, the policy's own among them.")]
KeptIn = Annotated[
    Path | None,
    arg(
        metavar="FOLDER",
        help="Run with the same weights as an arm: keep the figures there, and show them on its page.",
        help_behavior_hint="(optional)",
    ),
]
Draws = Annotated[int, arg(metavar="N", help="Imagined futures of the policy's own chunk, from different noise.")]
