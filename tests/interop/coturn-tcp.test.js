import { coturn } from './coturn.js';

coturn('tcp');
