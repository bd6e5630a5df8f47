"""Records the loss of SEED and its gradient in double precision: `python queue_distillation.py OUT.safetensors` writes what
`tests/distill.rs` compares with.

As the released code computes it (seed/builder.py of jacobswan1/SEED): similarities of student and teacher to a queue and to the
teacher's own embedding, softmax of the teacher's at its temperature, cross-entropy, mean over the rows.
"""

import sys

import torch
from safetensors.torch import save_file


def loss(student, teacher, queue, student_temp, teacher_temp):
    def similarities(of):
        return torch.cat([(of * teacher).sum(1, keepdim=True), of @ queue.T], 1)

    target = (similarities(teacher) / teacher_temp).softmax(1)
    return -(target * (similarities(student) / student_temp).log_softmax(1)).sum(1).mean()


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=1).float()


def main(out):
    torch.manual_seed(0)
    record = {}
    cases = [(6, 20, 37, 0.2, 1e-4), (9, 33, 130, 0.2, 0.02), (5, 16, 64, 0.07, 0.07), (1, 8, 1, 0.2, 1e-4)]
    for number, (rows, width, length, student_temp, teacher_temp) in enumerate(cases):
        student, teacher, queue = unit(rows, width), unit(rows, width), unit(length, width)
        if length > 8:
            # the same image again, and others that are nearly the same
            queue[3] = teacher[0]
            queue[5] = torch.nn.functional.normalize(teacher[1] + 0.02 * unit(1, width)[0], dim=0)
            queue[7] = torch.nn.functional.normalize(teacher[1] + 0.03 * unit(1, width)[0], dim=0)
        own = student.double().requires_grad_()
        value = loss(own, teacher.double(), queue.double(), student_temp, teacher_temp)
        value.backward()
        temperatures = torch.tensor([student_temp, teacher_temp], dtype=torch.float64)
        tensors = {"student": student, "teacher": teacher, "queue": queue, "temperatures": temperatures}
        tensors |= {"loss": value.detach().reshape(1), "gradient": own.grad}
        record |= {f"{number}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(record, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
