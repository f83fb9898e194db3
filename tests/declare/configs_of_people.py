"""DeepSpeed configs as people have them, each with what a plan makes of it: "plans", or words of its refusal.

Written for these tests after the habits of public projects: integrations that fill in "auto", launchers with templates,
language-model trainers, vision trainers, autotuned configs, configs of older DeepSpeeds. All stand in a setting of
batch 16 on 2 workers, AdamW, fp32 unless `setting` says otherwise; `differs` is what their space declares.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Config(NamedTuple):
    """A config and what becomes of it."""

    content: dict[str, Any]
    expected: str = "plans"
    setting: dict[str, Any] | None = None
    differs: tuple[str, ...] = ()


BF16 = {"precision": "bf16", "mixed_precision": "cast"}
FP16 = {"precision": "fp16", "mixed_precision": "cast"}
CLIPPED = {"gradient_clipping": 1.0}
AUTO_BATCH = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
}  # fmt: skip
AUTO_ADAM = {
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}}
}
AUTO_WARMUP = {
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
    }
}
AUTO_DECAY = {
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "total_num_steps": "auto", "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto",
        },
    }
}  # fmt: skip
AUTO_FP16 = {
    "fp16": {
        "enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2,
        "min_loss_scale": 1,
    }
}  # fmt: skip
ZERO2 = {
    "stage": 2, "allgather_partitions": True, "allgather_bucket_size": 2e8, "overlap_comm": True,
    "reduce_scatter": True, "reduce_bucket_size": 2e8, "contiguous_gradients": True,
}  # fmt: skip
ZERO3_AUTO = {
    "stage": 3, "overlap_comm": True, "contiguous_gradients": True, "sub_group_size": 1e9,
    "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}  # fmt: skip
CPU = {"device": "cpu", "pin_memory": True}
PRINTS = {"steps_per_print": 2000, "wall_clock_breakdown": False}

CONFIGS: dict[str, Config] = {
    "integration, stage 2, all auto": Config(
        {
            **AUTO_FP16,
            **AUTO_ADAM,
            **AUTO_WARMUP,
            "zero_optimization": {**ZERO2, "offload_optimizer": CPU},
            "gradient_clipping": "auto",
            **AUTO_BATCH,
            **PRINTS,
        },
        differs=("schedule",),
    ),
    "integration, stage 2, undeclared schedule": Config({**AUTO_ADAM, **AUTO_WARMUP, **AUTO_BATCH}, "schedule.name"),
    "integration, stage 3, both offloaded": Config(
        {
            **AUTO_FP16,
            "bf16": {"enabled": "auto"},
            **AUTO_ADAM,
            **AUTO_WARMUP,
            "gradient_clipping": "auto",
            "zero_optimization": {**ZERO3_AUTO, "offload_optimizer": CPU, "offload_param": CPU},
            **AUTO_BATCH,
            **PRINTS,
        },
        setting=BF16,
        differs=("schedule",),
    ),
    "integration, decay over the steps": Config(
        {**AUTO_ADAM, **AUTO_DECAY, **AUTO_BATCH},
        setting={"schedule": {"name": "linear", "warmup_steps": 2, "total_steps": 50}},
        differs=("schedule",),
    ),
    "integration, decay over unknown steps": Config(
        {**AUTO_ADAM, **AUTO_DECAY, **AUTO_BATCH}, "setting.schedule.total_steps", differs=("schedule",)
    ),
    "integration, NVMe": Config(
        {
            **AUTO_FP16,
            "zero_optimization": {
                **ZERO3_AUTO,
                "offload_optimizer": {
                    "device": "nvme",
                    "nvme_path": "/local_nvme",
                    "pin_memory": True,
                    "buffer_count": 4,
                    "fast_init": False,
                },
                "offload_param": {"device": "nvme", "nvme_path": "/local_nvme", "buffer_size": 1e8, "max_in_cpu": 1e9},
            },
            "aio": {
                "block_size": 262144,
                "queue_depth": 32,
                "intra_op_parallelism": 1,
                "single_submit": False,
                "overlap_events": True,
            },
            **AUTO_BATCH,
            **PRINTS,
        },
    ),
    "integration, fp16 of the setting": Config({**AUTO_FP16, "zero_optimization": ZERO2, **AUTO_BATCH}, setting=FP16),
    "integration, bf16 of the setting": Config(
        {**AUTO_FP16, "bf16": {"enabled": "auto"}, "zero_optimization": ZERO2, **AUTO_BATCH}, setting=BF16
    ),
    "integration, autocast of the setting": Config(
        {**AUTO_FP16, "bf16": {"enabled": "auto"}, "zero_optimization": ZERO2, **AUTO_BATCH},
        setting={"precision": "bf16"},
    ),
    "integration, with amp": Config(
        {"amp": {"enabled": "auto", "opt_level": "auto"}, **AUTO_BATCH}, "AMP integration has been removed"
    ),
    "integration, communication auto": Config({"communication_data_type": "auto", **AUTO_BATCH}, "has no value"),
    "launcher template, stage 0": Config(
        {
            "fp16": {"enabled": False},
            "bf16": {"enabled": False},
            **AUTO_BATCH,
            "zero_optimization": {"stage": 0},
            "zero_allow_untested_optimizer": True,
        }
    ),
    "launcher template, device none": Config(
        {
            "zero_optimization": {
                "stage": 3,
                "offload_optimizer": {"device": "none", "nvme_path": None},
                "offload_param": {"device": "none", "nvme_path": None},
                "stage3_gather_16bit_weights_on_model_save": True,
            },
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "steps_per_print": float(2**31),
            "bf16": {"enabled": False},
            "fp16": {"enabled": False},
            "zero_allow_untested_optimizer": True,
        },
    ),
    "launcher template, device auto": Config(
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "auto", "nvme_path": "auto"}}, **AUTO_BATCH}
    ),
    "launcher's own keys": Config(
        {"deepspeed_multinode_launcher": "standard", "zero3_init_flag": True, "zero_stage": 3}, "3 keys"
    ),
    "language model, stage 2, bf16": Config(
        {
            "bf16": {"enabled": "auto"},
            "train_micro_batch_size_per_gpu": "auto",
            "train_batch_size": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "zero_optimization": {
                "stage": 2,
                "overlap_comm": False,
                "contiguous_gradients": True,
                "allgather_partitions": True,
                "reduce_scatter": True,
                "round_robin_gradients": True,
                "allgather_bucket_size": 5e8,
                "reduce_bucket_size": 5e8,
            },
            "zero_allow_untested_optimizer": True,
            "fp16": {"enabled": "auto", "loss_scale": 0},
        },
        setting={**BF16, **CLIPPED},
    ),
    "language model, buckets of the hidden size": Config({"zero_optimization": ZERO3_AUTO, **AUTO_BATCH}),
    "language model, memory efficient": Config(
        {
            "zero_optimization": {
                **ZERO3_AUTO,
                "zero_quantized_weights": False,
                "zero_hpz_partition_size": 1,
                "zero_quantized_gradients": False,
                "memory_efficient_linear": False,
            },
            **AUTO_BATCH,
        }
    ),
    "language model, everything written": Config(
        {
            "train_batch_size": 16,
            "train_micro_batch_size_per_gpu": 8,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 2},
            **PRINTS,
        },
        setting=CLIPPED,
    ),
    "language model, another batch": Config(
        {"train_batch_size": 256, "train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0}, "3 keys"
    ),
    "megatron, fp16": Config(
        {
            "train_batch_size": 16,
            "train_micro_batch_size_per_gpu": 8,
            "steps_per_print": 10,
            "gradient_clipping": 1.0,
            "prescale_gradients": False,
            "zero_optimization": {"stage": 1},
            "fp16": {
                "enabled": True,
                "loss_scale": 0,
                "loss_scale_window": 500,
                "hysteresis": 2,
                "min_loss_scale": 1,
                "initial_scale_power": 11,
            },
            "wall_clock_breakdown": True,
        },
        setting={**FP16, **CLIPPED},
    ),
    "megatron, curriculum": Config(
        {"train_batch_size": 16, "curriculum_learning": {"enabled": True, "curriculum_type": "seqlen"}},
        "data_efficiency.data_sampling.curriculum_learning",
    ),
    "megatron, data efficiency": Config(
        {
            "data_efficiency": {
                "enabled": True,
                "seed": 1234,
                "data_sampling": {
                    "enabled": True,
                    "num_workers": 0,
                    "curriculum_learning": {
                        "enabled": True,
                        "data_cluster_path": "/x",
                        "curriculum_metrics": {"seqlen": {"index_to_sample_path": "/y"}},
                    },
                },
                "data_routing": {
                    "enabled": True,
                    "random_ltd": {"enabled": True, "total_layer_num": 24, "model_mask_name": "attention_mask"},
                },
            }
        },
    ),
    "megatron, bf16 with data types": Config(
        {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}, "zero_optimization": {"stage": 0}},
        setting=BF16,
    ),
    "megatron, checkpointing": Config(
        {
            "activation_checkpointing": {
                "partition_activations": True,
                "cpu_checkpointing": False,
                "contiguous_memory_optimization": False,
                "number_checkpoints": 4,
            }
        }
    ),
    "megatron, tensor parallel": Config({"tensor_parallel": {"autotp_size": 2}}, "2 ranks would share a sample"),
    "ulysses": Config({"sequence_parallel_size": 2, "zero_optimization": {"stage": 3}}, "sequence_parallel_size"),
    "neox-like": Config(
        {
            "train_micro_batch_size_per_gpu": 8,
            "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-8}},
            "zero_optimization": {
                "stage": 1,
                "allgather_partitions": True,
                "allgather_bucket_size": 500000000,
                "overlap_comm": True,
                "reduce_scatter": True,
                "reduce_bucket_size": 500000000,
                "contiguous_gradients": True,
                "cpu_offload": False,
            },
            "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1},
        },
        setting=FP16,
        differs=("optimizer",),
    ),
    "neox's own keys": Config(
        {"pipe-parallel-size": 1, "model-parallel-size": 1, "zero_optimization": {"stage": 1}}, "2 keys"
    ),
    "sparse attention": Config({"sparse_attention": {"mode": "fixed", "block": 16}}, "no longer supported"),
    "examples, vision": Config(
        {
            "train_batch_size": 16,
            "steps_per_print": 2000,
            "optimizer": {
                "type": "Adam",
                "params": {"lr": 0.001, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7},
            },
            "scheduler": {
                "type": "WarmupLR",
                "params": {"warmup_min_lr": 0, "warmup_max_lr": 0.001, "warmup_num_steps": 1000},
            },
            "gradient_clipping": 1.0,
            "prescale_gradients": False,
            "bf16": {"enabled": False},
            "fp16": {
                "enabled": False,
                "fp16_master_weights_and_grads": False,
                "loss_scale": 0,
                "loss_scale_window": 500,
                "hysteresis": 2,
                "min_loss_scale": 1,
                "initial_scale_power": 15,
            },
            "wall_clock_breakdown": False,
            "zero_optimization": {
                "stage": 0,
                "allgather_partitions": True,
                "reduce_scatter": True,
                "allgather_bucket_size": 50000000,
                "reduce_bucket_size": 50000000,
                "overlap_comm": True,
                "contiguous_gradients": True,
                "cpu_offload": False,
            },
        },
        setting=CLIPPED,
        differs=("optimizer", "schedule"),
    ),
    "examples, one-bit": Config(
        {"optimizer": {"type": "OneBitAdam", "params": {"lr": 0.0004, "freeze_step": 2}}}, "no optimizer 'OneBitAdam'"
    ),
    "examples, cosine": Config(
        {"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 100, "warmup_num_steps": 10}}},
        differs=("schedule",),
    ),
    "examples, one cycle": Config(
        {
            "scheduler": {
                "type": "OneCycle",
                "params": {
                    "cycle_first_step_size": 1000,
                    "cycle_min_lr": 0.0001,
                    "cycle_max_lr": 0.001,
                    "decay_lr_rate": 0.001,
                },
            }
        },
        differs=("schedule",),
    ),
    "examples, lamb": Config(
        {
            "optimizer": {
                "type": "Lamb",
                "params": {
                    "lr": 0.011,
                    "weight_decay": 0.01,
                    "bias_correction": False,
                    "max_coeff": 0.3,
                    "min_coeff": 0.01,
                },
            }
        },
        differs=("optimizer",),
    ),
    "examples, monitors": Config(
        {
            "tensorboard": {"enabled": True, "output_path": "logs/", "job_name": "x"},
            "wandb": {"enabled": True},
            "csv_monitor": {"enabled": True, "output_path": "out/", "job_name": "y"},
            "dump_state": True,
        }
    ),
    "examples, flops profiler": Config(
        {"flops_profiler": {"enabled": True, "profile_step": 1, "module_depth": -1, "top_modules": 1}}, "timed steps"
    ),
    "examples, comms logger": Config(
        {"comms_logger": {"enabled": True, "verbose": False, "prof_all": True}}, "timed steps"
    ),
    "examples, autotuning off": Config(
        {"autotuning": {"enabled": False, "fast": True}, "zero_optimization": {"stage": 1}}
    ),
    "examples, elastic": Config({"elasticity": {"enabled": True, "max_train_batch_size": 2000}}, "removed"),
    "examples, compression": Config({"compression_training": {"weight_quantization": {}}}, "compression library"),
    "examples, hybrid engine": Config({"hybrid_engine": {"enabled": True, "max_out_tokens": 512}}),
    "examples, deepcompile": Config(
        {"compile": {"deepcompile": True}, "zero_optimization": {"stage": 3}}, differs=("compile",)
    ),
    "examples, bf16 master weights": Config(
        {
            "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
            "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
            "zero_optimization": {"stage": 3},
        },
        differs=("precision",),
    ),
    "examples, ZenFlow": Config(
        {
            "zero_optimization": {
                "stage": 2,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "zenflow": {
                    "topk_ratio": 0.05,
                    "select_strategy": "auto",
                    "select_interval": "auto",
                    "update_interval": 4,
                    "full_warm_up_rounds": 0,
                    "overlap_step": True,
                },
            },
            "optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
        },
    ),
    "examples, Muon": Config(
        {
            "optimizer": {"type": "Muon", "params": {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.01}},
            "zero_optimization": {"stage": 1},
        },
        differs=("optimizer",),
    ),
    "examples, super offload": Config(
        {
            "zero_optimization": {
                "stage": 3,
                "offload_optimizer": {"device": "cpu", "super_offload": True, "ratio": 0.9, "cpuadam_cores_perc": 0.9},
            }
        }
    ),
    "older, cpu_offload": Config({"zero_optimization": {"stage": 2, "cpu_offload": True}}),
    "older, zero as a switch": Config({"zero_optimization": True}, "zero_optimization: is a section"),
    "older, bfloat16": Config({"bfloat16": {"enabled": True}}, setting=BF16),
    "older, legacy fusion and fp32 reduction": Config(
        {"fp32_allreduce": True, "disable_allgather": True}, "fp32_allreduce"
    ),
    "older, gathering fp16 weights": Config(
        {"zero_optimization": {"stage": 3, "stage3_gather_fp16_weights_on_model_save": True}}
    ),
    "wrong, zero_optimisation": Config({"zero_optimisation": {"stage": 3}}, "did you mean zero_optimization?"),
    "wrong, stage beside its section": Config({"stage": 3}, "it belongs under zero_optimization"),
    "wrong, a comma in the numbers": Config(
        {"zero_optimization": {"stage": 2, "reduce_bucket_size": "2,000"}}, "whole number"
    ),
    "wrong, device gpu": Config(
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "gpu"}}}, "one of none"
    ),
    "wrong, both precisions": Config(
        {"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "cannot both", differs=("precision",)
    ),
    "launcher, never prints": Config({"steps_per_print": float("inf"), "zero_optimization": {"stage": 1}}),
    "wrong, NVMe nowhere": Config(
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "needs nvme_path"
    ),
    "wrong, deepcompile without ZeRO": Config(
        {"compile": {"deepcompile": True}}, "needs zero: 1, 2 or 3", differs=("compile",)
    ),
    "launcher, precisions switched off in words": Config({"fp16": {"enabled": "False"}, "bf16": {"enabled": "no"}}),
    "wrong, max_grad_norm": Config(
        {"optimizer": {"type": "AdamW", "params": {"lr": 0.001, "max_grad_norm": 1.0}}}, "setting.gradient_clipping"
    ),
}
