//! One token of each sequence on a GPU: `kernels/select_token.cu`.

use super::{Find, Place, SelectToken, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

/// The kernels' `places`, null for a constant place, and `place`.
fn arguments(place: Place<View<'_, u32>>) -> [Arg; 2] {
    let (places, place) = match place {
        Place::At(place) => (0, place),
        Place::Each(places) => (places.address(), 0),
    };
    [Arg::from(&places), Arg::from(&place)]
}

impl<T: ActType> SelectToken for Cuda<T> {
    fn find_token(
        &self,
        find: Find,
        context: usize,
        tokens: View<'_, i32>,
        places: ViewMut<'_, u32>,
    ) -> Result<(), DeviceError> {
        let id = match find {
            Find::Largest => -1i32,
            // Tokens are i32, so a larger number is never found.
            Find::Id(id) => i32::try_from(id).unwrap_or(i32::MAX),
        };
        let batch = places.len();
        let config = LaunchConfig::blocks(batch.div_ceil(8), 256);
        self.launch("select_token", "find_token", config, args![tokens, places, batch, context, Arg::new(id)])
    }

    fn select_token_forward(
        &self,
        shape: &Shape,
        place: Place<View<'_, u32>>,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width } = shape;
        Self::check_width("select_token", width)?;
        let config = LaunchConfig::for_elements(y.len(), T::PACK, 256);
        let [places, place] = arguments(place);
        self.launch_typed(
            "select_token",
            "select_token_forward",
            config,
            args![x, places, place, y, batch, tokens, width],
        )
    }

    fn select_token_backward(
        &self,
        shape: &Shape,
        place: Place<View<'_, u32>>,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width } = shape;
        let config = LaunchConfig::for_elements(dx.len(), T::PACK, 256);
        let [places, place] = arguments(place);
        let args = args![dy, places, place, dx, batch, tokens, width];
        self.launch_typed("select_token", "select_token_backward", config, args)
    }
}
