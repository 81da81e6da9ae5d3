"""Networks for one modality; they know nothing of fusion."""

from torchmsaf.backbones.by_rank import network_for as network_for
from torchmsaf.backbones.hcn import HCN as HCN
from torchmsaf.backbones.i3d import I3D as I3D
from torchmsaf.backbones.inflated_resnet import InflatedResNet50 as InflatedResNet50
from torchmsaf.backbones.mfcc_cnn import MFCCNet as MFCCNet
from torchmsaf.backbones.resnext3d import ResNeXt3D as ResNeXt3D
from torchmsaf.backbones.staged import ConvNet as ConvNet
from torchmsaf.backbones.staged import StagedNetwork as StagedNetwork
from torchmsaf.backbones.staged import VectorNet as VectorNet
